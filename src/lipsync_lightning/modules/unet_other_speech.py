"""Stage 2 that also hears speech nobody filmed: what the mouth should look like is then known to SyncNet alone."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lipsync_lightning import diffusion
from lipsync_lightning.clip import ClipBatch
from lipsync_lightning.errors import BadConfig
from lipsync_lightning.modules.denoising import DenoisingStep, LossInputs
from lipsync_lightning.modules.unet_stage2 import UNetStage2Module


class OtherSpeechStage2Module(UNetStage2Module):
    """Serves the terms of stage 2 and `sync_other`: the speech of another clip of the batch, said by the one-step estimate from pure noise.

    From pure noise nothing of the real mouth is left to read off, as at the first step of inference. Windows of the same clip do not
    lend each other speech: the reference may show the mouth that says it. The term needs no ground truth; it is this library's own idea,
    not the paper's.
    """

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Raises: BadConfig, if no clip of the batch has another to borrow speech from."""
        if not any(lender != own for own, lender in enumerate(lenders(batch["id"]))):
            raise BadConfig(
                f"the loss term sync_other borrows the speech of other clips, all {len(batch['id'])} windows of a batch are of "
                f"{batch['id'][0]}; set data.batch_size to 2 or more, above data.samples.windows_per_clip"
            )
        return super().training_step(batch, batch_idx)

    def loss_inputs(self, batch: ClipBatch, step: DenoisingStep) -> LossInputs:
        def sync_other() -> tuple[Tensor, Tensor]:
            lender_of = lenders(batch["id"])
            return self.decode(self.clean_from_noise(step, batch["audio"][lender_of])), batch["mel"][lender_of]

        return {**super().loss_inputs(batch, step), "sync_other": sync_other}

    def clips_that_count(self, batch: ClipBatch, step: DenoisingStep) -> dict[str, Tensor]:
        """Return by loss term which clips (B,) it may look at: `sync_other` at those that found other speech."""
        borrows = torch.tensor(
            [lender != own for own, lender in enumerate(lenders(batch["id"]))], device=step.heard.device
        )
        return {**super().clips_that_count(batch, step), "sync_other": borrows}

    def clean_from_noise(self, step: DenoisingStep, audio: Tensor) -> Tensor:
        """Return the one-step estimate of clean latents (B, T, C, h, w) from the step's noise alone, saying `audio` (B, T, A, D)."""
        last = torch.full_like(step.timesteps, self.scheduler.config["num_train_timesteps"] - 1)
        prediction = self.predict(step.noise, step.shown, last, audio)
        return diffusion.predict_clean(self.scheduler, prediction, step.noise, last)


def lenders(ids: Sequence[str]) -> list[int]:
    """Return for each window the next one of the batch that is of another clip, or itself where there is none."""
    places = range(len(ids))
    return [
        next(((own + far) % len(ids) for far in places if ids[(own + far) % len(ids)] != ids[own]), own)
        for own in places
    ]
