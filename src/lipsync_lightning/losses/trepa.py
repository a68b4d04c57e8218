"""What generated and real frames look like: LPIPS frame by frame, TREPA over time."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from lipsync_lightning.clip import lower_half
from lipsync_lightning.losses.terms import Loss, StepOutput
from lipsync_lightning.models.weights_io import frozen

RESOLUTION = 224  # pixels, of VideoMAE-v2's frames


class TREPALoss(Loss):
    """Temporal representation alignment: squared distance of the normalised video features of two clips.

    Source: LatentSync (arXiv 2412.09262), section on TREPA: VideoMAE-v2 features, l2-normalised, mean squared error.
    """

    def __init__(self, features: nn.Module) -> None:
        """Args: features: (B, T, 3, H, W) in [0, 1] -> (B, D); H = W = its `image_size`, 224 where it has none."""
        super().__init__()
        self.features = frozen(features)
        self.resolution = int(getattr(features, "image_size", RESOLUTION))

    def reads(self, step: StepOutput) -> tuple[Tensor, ...]:
        return step.frames_pred, step.frames

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


class PerceptualLoss(Loss):
    """LPIPS between the lower halves of generated and real frames, frame by frame."""

    def __init__(self, *, metric: nn.Module) -> None:
        """Args: metric: two pictures (N, 3, H, W) in [-1, 1] -> their distances; kept frozen."""
        super().__init__()
        self.metric = frozen(metric)

    def reads(self, step: StepOutput) -> tuple[Tensor, ...]:
        return lower_half(step.frames_pred), lower_half(step.frames)

    def forward(self, generated: Tensor, real: Tensor) -> Tensor:
        """Return the mean distance of two (B, T, 3, H, W) videos in [-1, 1]. Source: LPIPS (arXiv 1801.03924)."""
        return self.metric(*(rearrange(video, "b t c h w -> (b t) c h w") for video in (generated, real))).mean()
