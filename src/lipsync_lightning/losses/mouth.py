"""Reconstruction: the whole face, or where it matters, the part that is generated. Videos are (B, T, 3, H, W)."""

from einops import rearrange
from torch import Tensor
from torch.nn import functional

from lipsync_lightning.losses.terms import Loss, StepOutput
from lipsync_lightning.media.masks import latent_keep_mask


class ReconstructionLoss(Loss):
    """Mean absolute difference of generated and real frames."""

    def reads(self, step: StepOutput) -> tuple[Tensor, ...]:
        return step.frames_pred, step.frames

    def forward(self, generated: Tensor, real: Tensor) -> Tensor:
        return functional.l1_loss(generated, real)


class MouthNoiseLoss(Loss):
    """The diffusion target, weighted: what inference takes from the video anyway counts less."""

    def __init__(self, *, kept_weight: float) -> None:
        """Args: kept_weight: of latents that the mask keeps, where those to be generated have 1."""
        super().__init__()
        self.kept_weight = kept_weight

    def reads(self, step: StepOutput) -> tuple[Tensor, ...]:
        return step.prediction, step.target, step.keep_mask

    def forward(self, prediction: Tensor, target: Tensor, keep_mask: Tensor) -> Tensor:
        """Return the scalar loss of (B, T, C, h, w); keep_mask: (B, 1, H, W), 1 = keep, 0 = generated."""
        kept = latent_keep_mask(keep_mask, keep_mask.shape[-1] // target.shape[-1])
        weight = rearrange(1 - (1 - self.kept_weight) * kept, "b c h w -> b 1 c h w")
        return ((prediction - target).square() * weight).mean() / weight.mean()


class MouthLoss(Loss):
    """Mean absolute difference inside the region that is generated."""

    def reads(self, step: StepOutput) -> tuple[Tensor, ...]:
        return step.frames_pred, step.frames, step.keep_mask

    def forward(self, generated: Tensor, real: Tensor, keep_mask: Tensor) -> Tensor:
        """Return the scalar loss of two (B, T, 3, H, W) videos; keep_mask: (B, 1, H, W), 1 = keep, 0 = generated."""
        hole = 1 - rearrange(keep_mask, "b c h w -> b 1 c h w")
        return ((generated - real).abs() * hole).sum() / (hole.sum() * generated.shape[1] * generated.shape[2])
