"""Stage 2: temporal layers and attention learn from what the decoded frames look and sound like."""

from functools import cache

from torch import Tensor

from lipsync_lightning.clip import ClipBatch, lower_half
from lipsync_lightning.errors import BadConfig
from lipsync_lightning.modules.denoising import DenoisingModule, DenoisingStep, LossInputs


class UNetStage2Module(DenoisingModule):
    """Trains the published parameter groups. Serves the loss terms `noise`, `sync`, `sync_other`, `perceptual` and `trepa`.

    `sync_other` has each face say its neighbour's words, estimated in one step from pure noise. No real video of that
    exists, so only SyncNet judges it; what cheeks and jaw outside the mask still say of the old words then is no help.
    """

    def loss_inputs(self, batch: ClipBatch, step: DenoisingStep) -> LossInputs:
        @cache
        def frames_pred() -> Tensor:  # decoded once, and only if a term looks at frames
            return self.decode(step.clean_pred)

        return {
            "noise": lambda: (step.prediction, step.target),
            "sync": lambda: (frames_pred(), batch["mel"]),
            "sync_other": lambda: (self.decode(self.clean_from_noise(step, neighbours(batch["audio"]))), neighbours(batch["mel"])),
            "perceptual": lambda: (lower_half(frames_pred()), lower_half(batch["frames"])),
            "trepa": lambda: (frames_pred(), batch["frames"]),
        }


def neighbours(values: Tensor) -> Tensor:
    """Return (B, ...) rows moved by one, so that each clip meets the next one's. Raises: BadConfig, for a batch of one."""
    if len(values) < 2:
        raise BadConfig("the loss term sync_other needs at least two clips in a batch; set data.batch_size=2 or more")
    return values.roll(1, dims=0)
