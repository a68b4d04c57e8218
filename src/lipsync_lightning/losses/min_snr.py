"""The diffusion target, timesteps weighted by how much there is to learn at them."""

from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from einops import rearrange
from torch import Tensor, nn

from lipsync_lightning.diffusion import min_snr_weight


class MinSNRLoss(nn.Module):
    """Mean squared error of predictions with min-SNR weights. Source: arXiv 2303.09556, which finds gamma 5 best."""

    def __init__(self, *, scheduler: DDIMScheduler, gamma: float) -> None:
        """Args: scheduler: that of the training; its prediction type decides what the weights are."""
        super().__init__()
        self.scheduler = scheduler
        self.gamma = gamma

    def forward(self, prediction: Tensor, target: Tensor, timesteps: Tensor) -> Tensor:
        """Return the scalar loss of (B, T, C, h, w) predictions at the timesteps (B,)."""
        weight_B = min_snr_weight(self.scheduler, timesteps, self.gamma)
        return ((prediction - target).square() * rearrange(weight_B, "b -> b 1 1 1 1")).mean()
