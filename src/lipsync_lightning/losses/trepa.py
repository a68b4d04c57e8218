"""TREPA: temporal representation alignment."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from lipsync_lightning.models.weights_io import frozen

RESOLUTION = 224  # pixels, of VideoMAE-v2's frames


class TREPALoss(nn.Module):
    """Squared distance of the normalised video features of a generated and a real clip.

    Source: LatentSync (arXiv 2412.09262), section on TREPA: VideoMAE-v2 features, l2-normalised, mean squared error.
    """

    def __init__(self, features: nn.Module) -> None:
        """Args:
        features: (B, T, 3, H, W) in [0, 1] -> (B, D), reading frames of its `image_size`, 224 where it names none; kept frozen.
        """
        super().__init__()
        self.features = frozen(features)
        self.resolution = int(getattr(features, "image_size", RESOLUTION))

    def forward(self, generated: Tensor, real: Tensor) -> Tensor:
        """Return the scalar loss of two (B, T, 3, H, W) videos in [-1, 1]; 0 for equal clips."""
        with torch.no_grad():
            real_BD = self._normalised_features(real)
        return functional.mse_loss(self._normalised_features(generated), real_BD)

    def _normalised_features(self, video: Tensor) -> Tensor:
        frames = rearrange(video, "b t c h w -> (b t) c h w")
        frames = functional.interpolate(frames, size=(self.resolution, self.resolution), mode="bicubic")
        frames = (frames / 2 + 0.5).clamp(0, 1)
        features_BD = self.features(rearrange(frames, "(b t) c h w -> b t c h w", b=len(video)))
        return functional.normalize(features_BD.float(), dim=1)
