"""Training of a generator that needs no diffusion by the losses of stage 2: they read frames, whoever made them."""

from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from lipsync_lightning.clip import ClipBatch, ClipSpec
from lipsync_lightning.losses.terms import StepOutput, WeightedLosses
from lipsync_lightning.models.wav2lip import Wav2LipGenerator
from lipsync_lightning.models.weights_io import enable_checkpointing, load_matching
from lipsync_lightning.modules import hooks
from lipsync_lightning.modules.rebuilding import RebuiltModule
from lipsync_lightning.modules.weights import network_weights


class Wav2LipModule(RebuiltModule):
    """Generates the masked part of clips in one step, by losses that read frames and sound."""

    frozen_parts = ("losses",)
    on_save_checkpoint = hooks.leave_out_frozen
    on_load_checkpoint = hooks.put_back_frozen

    def __init__(
        self,
        *,
        losses: WeightedLosses,
        generator: Wav2LipGenerator,
        optimizer: hooks.OptimizerFactory,
        schedule: hooks.ScheduleFactory,
        clip: ClipSpec,
        gradient_checkpointing: bool,
    ) -> None:
        """Args: gradient_checkpointing: compute what the losses compute again in backward instead of keeping it."""
        super().__init__()
        self.losses = losses
        if gradient_checkpointing:
            enable_checkpointing(self.losses)
        self.generator = generator
        self.optimizer = optimizer
        self.schedule = schedule
        self.clip = clip

    def forward(self, batch: ClipBatch) -> Tensor:
        """Return frames (B, T, 3, H, W) in [-1, 1]: generated where the mask is 0, the batch's own where it is 1."""
        keep_B11HW = rearrange(batch["keep_mask"], "b 1 h w -> b 1 1 h w")
        kept_BTCHW = batch["frames"] * keep_B11HW
        generated_BTCHW = self.generator(kept_BTCHW, batch["reference"], batch["audio"])
        return kept_BTCHW + (1 - keep_B11HW) * generated_BTCHW.float()

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        return hooks.log_losses(self, "train", self.losses(self.step(batch)), batch)

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        hooks.log_losses(self, "val", self.losses(self.step(batch)), batch)

    def configure_optimizers(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return hooks.optimizer_with_schedule(self, self.generator)

    def step(self, batch: ClipBatch) -> StepOutput:
        """Generate the masked part of the frames and return what the losses read."""
        return StepOutput(
            frames_pred=self(batch),
            has_audio=np.ones(len(batch["audio"]), dtype=bool),
            **{key: batch[key] for key in ("frames", "mel", "keep_mask")},
        )

    @torch.no_grad()
    def generate(self, batch: ClipBatch) -> Tensor:
        """Return the frames (B, T, 3, H, W) in [-1, 1] with new mouths: see `forward`."""
        return self(batch).clamp(-1, 1)

    def load_weights(self, path: str, which: str | int = "last") -> None:
        """Start from another run's generator. Raises: MissingWeights, WrongWeights."""
        load_matching(self.generator, network_weights(path, "generator", which), allowed_missing=())
