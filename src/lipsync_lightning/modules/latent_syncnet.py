"""Training of a SyncNet that judges latents, so that supervision by it needs no decoding."""

from typing import Any

import torch
from torch import Tensor, nn

from lipsync_lightning.clip import ClipSpec, WindowBatch
from lipsync_lightning.models.autoencoder import Autoencoder
from lipsync_lightning.models.syncnet import SyncNet
from lipsync_lightning.models.weights_io import frozen
from lipsync_lightning.modules.checkpointing import leave_out_frozen, put_back_frozen
from lipsync_lightning.modules.draws import ClipDraws
from lipsync_lightning.modules.optimization import OptimizerFactory, ScheduleFactory
from lipsync_lightning.modules.syncnet import SyncNetModule

FROZEN_PARTS = ("autoencoder",)


class LatentSyncNetModule(SyncNetModule):
    """Learns what `SyncNetModule` learns, from the latents of whole faces.

    Source: LatentSync (arXiv 2412.09262), section 3.3, whose latent SyncNet reads 32x32 latents of faces of 256x256 pixels: whole ones.
    """

    def __init__(
        self,
        *,
        autoencoder: Autoencoder,
        syncnet: SyncNet,
        objective: nn.Module,
        optimizer: OptimizerFactory,
        schedule: ScheduleFactory,
        clip: ClipSpec,
    ) -> None:
        """Args: as `SyncNetModule`; syncnet: its lips have T times the autoencoder's latent channels."""
        super().__init__(syncnet=syncnet, objective=objective, optimizer=optimizer, schedule=schedule, clip=clip)
        self.autoencoder = frozen(autoencoder)  # pyright: ignore[reportArgumentType]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        leave_out_frozen(checkpoint, FROZEN_PARTS, self.clip)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        put_back_frozen(checkpoint, self, FROZEN_PARTS, self.clip)

    @torch.no_grad()
    def looked_at(self, batch: WindowBatch) -> Tensor:
        """Return the latents of whole faces, (B, T, C, h, w), encoded clip by clip: a batch of SyncNet has thousands of frames."""
        generators = ClipDraws(batch["seed"], self.device).generators
        latents = [
            self.autoencoder.encode(frames, own) for frames, own in zip(batch["frames"], generators, strict=True)
        ]
        return torch.stack(latents).float()
