"""Stage 1 on latents that were encoded ahead of time."""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from lipsync_lightning.clip import LatentBatch
from lipsync_lightning.errors import ClipMismatch
from lipsync_lightning.models.autoencoder import drawn
from lipsync_lightning.models.weights_io import fingerprint
from lipsync_lightning.modules.draws import ClipDraws
from lipsync_lightning.modules.unet_stage1 import UNetStage1Module


class LatentUNetStage1Module(UNetStage1Module):
    """Stage 1 that reads latents instead of pixels: the same training, without the encoder's work at every step.

    From the same draws it computes what `UNetStage1Module` does, up to the half precision in which latents are stored.
    """

    def __init__(self, **arguments: Any) -> None:
        """Args: those of `UNetStage1Module`; its autoencoder must be the one that made the latents."""
        super().__init__(**arguments)
        self.made_by = fingerprint(self.autoencoder)  # pyright: ignore[reportArgumentType]

    @torch.no_grad()
    def _encode(self, batch: LatentBatch, draws: ClipDraws) -> tuple[Tensor, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return latents (B, T, C, h, w) of the target, the masked target and the reference, drawn from their stored posteriors.

        Raises: ClipMismatch, if another autoencoder has made them.
        """
        self._require_own(batch)
        posteriors = torch.stack([batch["latents"], batch["masked_latents"], batch["reference_latents"]]).float()
        num_frames = posteriors.shape[2]
        generators = [own for _ in posteriors for own in draws.generators for _ in range(num_frames)]
        mean, std = rearrange(posteriors, "k b t m c h w -> m (k b t) c h w")
        target, masked, reference = rearrange(
            drawn(mean, std, generators), "(k b t) c h w -> k b t c h w", k=3, t=num_frames
        )
        return target, masked, reference

    def _require_own(self, batch: LatentBatch) -> None:
        foreign = next(
            (clip for clip, made_by in zip(batch["id"], batch["made_by"], strict=True) if made_by != self.made_by), None
        )
        if foreign is not None:
            raise ClipMismatch(
                f"the latents of {foreign} were made by another autoencoder than module.autoencoder; "
                "encode the shards again with this one (python -m lipsync_lightning.latents), or train with that one"
            )
