"""The diffusion target, timesteps weighted by how much there is to learn at them."""

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from einops import rearrange
from torch import Tensor

from lipsync_lightning.losses.terms import Loss, StepOutput


class MinSNRLoss(Loss):
    """`NoiseLoss` with min-SNR weights.

    Source: arXiv 2303.09556, which finds gamma 5 best: the error of the clean latents counts min(SNR, gamma), which is
        min(SNR, gamma)/SNR of the noise's error and min(SNR, gamma)/(SNR + 1) of the velocity's.
    """

    def __init__(self, *, scheduler: DDIMScheduler, gamma: float) -> None:
        """Args: scheduler: that of the training; its prediction type decides what the weights are."""
        super().__init__()
        self.scheduler = scheduler
        self.gamma = gamma

    def reads(self, step: StepOutput) -> tuple[Tensor, ...]:
        return step.prediction, step.target, torch.from_numpy(step.timesteps).to(step.target.device, non_blocking=True)

    def forward(self, prediction: Tensor, target: Tensor, timesteps: Tensor) -> Tensor:
        """Return the scalar loss of (B, T, C, h, w) predictions at the timesteps (B,)."""
        alpha_bar_B = self.scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
        snr_B = alpha_bar_B / (1 - alpha_bar_B)
        clean_share_B = snr_B + 1 if self.scheduler.config["prediction_type"] == "v_prediction" else snr_B
        weight_B = snr_B.clamp(max=self.gamma) / clean_share_B
        return ((prediction - target).square() * rearrange(weight_B, "b -> b 1 1 1 1")).mean()
