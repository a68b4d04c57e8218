"""SyncNet supervision by speech nobody filmed: what the mouth should look like is then known to SyncNet alone."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from lipsync_lightning.diffusion import predict_clean
from lipsync_lightning.errors import BadConfig
from lipsync_lightning.losses.sync import SyncLoss
from lipsync_lightning.losses.terms import StepOutput
from lipsync_lightning.models.syncnet import SyncNet


class OtherSpeechSyncLoss(SyncLoss):
    """`SyncLoss` on the one-step estimate from pure noise that says the speech of another clip of the batch.

    From pure noise nothing of the real mouth can be read off, as at inference's first step. Windows of one clip do not
    lend each other speech: the reference may show the mouth that says it. The term needs no ground truth; it is this
    library's own idea, not the paper's.
    """

    def __init__(
        self, *, syncnet: SyncNet, resolution: int, scheduler: DDIMScheduler, lowest_probability: float = 1e-3
    ) -> None:
        """Args: scheduler: that of the training. The others: see `SyncLoss`."""
        super().__init__(syncnet=syncnet, resolution=resolution, lowest_probability=lowest_probability)
        self.scheduler = scheduler

    def reads(self, step: StepOutput) -> tuple[Tensor, ...]:
        """Raises: BadConfig, in training, if no clip of the batch has another to borrow speech from."""
        lender_of = lenders(step.ids)
        if self.training and lender_of == list(range(len(step.ids))):
            raise BadConfig(
                f"a loss term borrows the speech of other clips, all {len(step.ids)} windows of a batch are of "
                f"{step.ids[0]}; set data.batch_size to 2 or more, above data.samples.windows_per_clip"
            )
        num_timesteps = self.scheduler.config["num_train_timesteps"]
        last = torch.full((len(step.ids),), num_timesteps - 1, device=step.noise.device)
        prediction = step.predict(step.noise, last, step.audio[lender_of])
        return step.decode(predict_clean(self.scheduler, prediction, step.noise, last)), step.mel[lender_of]

    def clips(self, step: StepOutput) -> np.ndarray:
        return np.array([lender != own for own, lender in enumerate(lenders(step.ids))])


def lenders(ids: Sequence[str]) -> list[int]:
    """Return for each window the next one of the batch that is of another clip, or itself where there is none."""
    after = [[(own + far) % len(ids) for far in range(len(ids))] for own in range(len(ids))]
    return [next((other for other in order if ids[other] != ids[own]), own) for own, order in enumerate(after)]
