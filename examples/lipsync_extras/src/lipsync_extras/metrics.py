"""A metric of torchmetrics: how sharp generated mouths are."""

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric

LAPLACE = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))


class MouthSharpness(Metric):
    """Detail of generated pixels as a share of that of the real ones: 1 is as sharp, 0 is flat, above 1 is noise."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("generated", "real"):
            self.add_state(name, default=torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, generated: Tensor, real: Tensor, keep_mask: Tensor) -> None:
        """Add videos (B, T, 3, H, W); keep_mask: (B, 1, H, W), 0 where pixels were generated."""
        hole = 1 - rearrange(keep_mask, "b c h w -> b 1 c h w")
        self.generated += (detail(generated) * hole).sum()
        self.real += (detail(real) * hole).sum()

    def compute(self) -> Tensor:
        return self.generated / self.real.clamp(min=1e-6)  # of flat pictures nothing can be said


def detail(video: Tensor) -> Tensor:
    """Return (B, T, 1, H, W): how far each grey pixel is from the mean of its four neighbours."""
    grey = rearrange(video.float().mean(dim=2), "b t h w -> (b t) 1 h w")
    edges = functional.conv2d(grey, grey.new_tensor(LAPLACE)[None, None], padding=1).abs()
    return rearrange(edges, "(b t) 1 h w -> b t 1 h w", b=len(video))
