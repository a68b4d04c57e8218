"""A network: a SyncNet that sees and hears only what changes within a window."""

from diffusers.configuration_utils import register_to_config
from einops import rearrange
from torch import Tensor

from lipsync_lightning.models.syncnet import StableSyncNet

RGB = 3


class MovingSyncNet(StableSyncNet):
    """Takes the mean over the window from lips and from sound: who speaks, which few people's windows tell apart by."""

    @register_to_config
    def __init__(self, *, audio_encoder: dict, visual_encoder: dict, calibration: dict | None = None) -> None:
        super().__init__(audio_encoder=audio_encoder, visual_encoder=visual_encoder, calibration=calibration)

    def embed_frames(self, frames: Tensor) -> Tensor:
        """Return the unit embeddings (B, D) of lips (B, T*3, h, w)."""
        video = rearrange(frames, "b (t c) h w -> b t c h w", c=RGB)
        return super().embed_frames(rearrange(video - video.mean(dim=1, keepdim=True), "b t c h w -> b (t c) h w"))

    def embed_mel(self, mel: Tensor) -> Tensor:
        """Return the unit embeddings (B, D) of sound (B, 1, M, L)."""
        return super().embed_mel(mel - mel.mean(dim=-1, keepdim=True))
