"""Stage 2: temporal layers and attention learn from what the decoded frames look and sound like."""

from functools import cache

from torch import Tensor

from lipsync_lightning.clip import ClipBatch, lower_half
from lipsync_lightning.modules.denoising import DenoisingModule, DenoisingStep, LossInputs


class UNetStage2Module(DenoisingModule):
    """Trains the published parameter groups. Serves the loss terms `noise`, `sync`, `perceptual`, `trepa` and `mouth`."""

    def loss_inputs(self, batch: ClipBatch, step: DenoisingStep) -> LossInputs:
        @cache
        def frames_pred() -> Tensor:  # decoded once, and only if a term looks at frames
            return self.decode(step.clean_pred)

        return {
            "noise": lambda: (step.prediction, step.target),
            "sync": lambda: (frames_pred(), batch["mel"]),
            "perceptual": lambda: (lower_half(frames_pred()), lower_half(batch["frames"])),
            "trepa": lambda: (frames_pred(), batch["frames"]),
            "mouth": lambda: (frames_pred(), batch["frames"], batch["keep_mask"]),
        }
