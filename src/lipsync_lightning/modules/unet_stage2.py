"""Stage 2: temporal layers and attention learn from what the decoded frames look and sound like."""

from functools import cache

from torch import Tensor

from lipsync_lightning.clip import ClipBatch, lower_half
from lipsync_lightning.modules.denoising import DenoisingModule, DenoisingStep, LossInputs


class UNetStage2Module(DenoisingModule):
    """Trains the published parameter groups. Serves the loss terms `noise`, `noise_min_snr`, `sync` and `perceptual`, `trepa` and `mouth`
    on decoded frames, and `sync_latent` on latents, which needs no decoding."""

    def loss_inputs(self, batch: ClipBatch, step: DenoisingStep) -> LossInputs:
        @cache
        def frames_pred() -> Tensor:  # decoded once, and only if a term looks at frames
            return self.decode(step.clean_pred)

        return {
            **super().loss_inputs(batch, step),
            "sync": lambda: (frames_pred(), batch["mel"]),
            "sync_latent": lambda: (step.clean_pred, batch["mel"]),
            "perceptual": lambda: (lower_half(frames_pred()), lower_half(batch["frames"])),
            "trepa": lambda: (frames_pred(), batch["frames"]),
            "mouth": lambda: (frames_pred(), batch["frames"], batch["keep_mask"]),
        }

    def clips_that_count(self, batch: ClipBatch, step: DenoisingStep) -> dict[str, Tensor]:
        """Return by loss term which clips (B,) it may look at: what was made without sound need not fit it."""
        return {"sync": step.heard, "sync_latent": step.heard}
