"""Reconstruction where it matters: the part of the face that is generated."""

from einops import rearrange
from torch import Tensor, nn


class MouthLoss(nn.Module):
    """Mean absolute difference of generated and real frames inside the region that the mask leaves out."""

    def forward(self, generated: Tensor, real: Tensor, keep_mask: Tensor) -> Tensor:
        """Return the scalar loss.

        Args:
            generated, real: (B, T, 3, H, W) in [-1, 1].
            keep_mask: (B, 1, H, W), 1 = keep, 0 = generated.
        """
        hole = 1 - rearrange(keep_mask, "b c h w -> b 1 c h w")
        return ((generated - real).abs() * hole).sum() / (hole.sum() * generated.shape[1] * generated.shape[2])
