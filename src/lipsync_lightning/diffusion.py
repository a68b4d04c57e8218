"""The diffusion process as pure functions: noise, targets, the one-step estimate, guidance, sampling.

Latents are (B, T, C, H, W). Schedules are diffusers' `DDIMScheduler`, so prediction type and betas are YAML.
"""

from collections.abc import Callable
from copy import deepcopy

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from einops import rearrange, repeat
from torch import Tensor

from lipsync_lightning.errors import BadConfig

TINY = 1e-7  # diffusers' zero terminal signal-to-noise ratio is 2^-24 in some versions


def mix_noise(shared: Tensor, independent: Tensor, alpha: float) -> Tensor:
    """Return unit-variance noise that the frames of a clip share in part.

    Args:
        shared: (B, T, C, H, W), standard normal; only frame 0 is used, for every frame.
        independent: (B, T, C, H, W), standard normal.
        alpha: 0 gives independent frames, infinity one noise for all.
    Source: LatentSync (arXiv 2412.09262), mixed noise: s²·shared + i²·independent with s² = a²/(1+a²), i² = 1/(1+a²).
    """
    own_variance = 1 / (1 + alpha**2)  # 0 for infinity
    return (1 - own_variance) ** 0.5 * shared[:, :1] + own_variance**0.5 * independent


def training_target(scheduler: DDIMScheduler, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return what the network should predict, as the schedule's prediction type says: the noise, or the velocity.

    Raises: BadConfig, for a prediction type that training does not know, or that the schedule makes impossible.
    """
    match scheduler.config["prediction_type"]:
        case "epsilon":
            if scheduler.alphas_cumprod[-1] < TINY:
                raise BadConfig(
                    "prediction_type epsilon cannot be had with zero terminal signal-to-noise ratio: from noise alone its clean latents "
                    "are 0/0; take v_prediction, or rescale_betas_zero_snr=false"
                )
            return noise
        case "v_prediction":
            return scheduler.get_velocity(clean, noise, timesteps)  # pyright: ignore[reportArgumentType]
        case other:
            raise BadConfig(
                f"prediction_type must be epsilon or v_prediction, not {other!r}; change the scheduler's YAML"
            )


def predict_clean(scheduler: DDIMScheduler, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """Return the one-step estimate of the clean latents.

    Args:
        prediction, noisy: (B, T, C, H, W).
        timesteps: (B,), one per clip.
    Source: epsilon: x0 = (x_t − sqrt(1−ᾱ)·ε)/sqrt(ᾱ), DDIM (arXiv 2010.02502); velocity: x0 = sqrt(ᾱ)·x_t − sqrt(1−ᾱ)·v (arXiv 2202.00512).
    """
    alpha_bar = rearrange(scheduler.alphas_cumprod.to(noisy)[timesteps], "b -> b 1 1 1 1")
    if scheduler.config["prediction_type"] == "v_prediction":
        return alpha_bar.sqrt() * noisy - (1 - alpha_bar).sqrt() * prediction
    return (noisy - (1 - alpha_bar).sqrt() * prediction) / alpha_bar.sqrt()


def min_snr_weight(scheduler: DDIMScheduler, timesteps: Tensor, gamma: float) -> Tensor:
    """Return by how much the squared error of a prediction counts at each timestep, (B,).

    Source: min-SNR weighting (arXiv 2303.09556): the error of the clean latents counts min(SNR, gamma), which is min(SNR, gamma)/SNR of
        the noise's error and min(SNR, gamma)/(SNR + 1) of the velocity's.
    """
    alpha_bar_B = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    snr_B = alpha_bar_B / (1 - alpha_bar_B)
    clean_share_B = snr_B + 1 if scheduler.config["prediction_type"] == "v_prediction" else snr_B
    return snr_B.clamp(max=gamma) / clean_share_B


def unet_input(noisy: Tensor, latent_keep_mask: Tensor, masked: Tensor, reference: Tensor) -> Tensor:
    """Return the U-Net's (B, C, T, H, W) input: noisy latents, mask, masked frame's latents, reference frame's latents.

    Args:
        noisy, masked, reference: (B, T, c, H, W).
        latent_keep_mask: (B, 1, H, W), 1 = keep, 0 = to be generated.
    Source: channel order of the released LatentSync checkpoints.
    """
    mask = repeat(latent_keep_mask, "b c h w -> b t c h w", t=noisy.shape[1]).to(noisy)
    return rearrange(torch.cat([noisy, mask, masked, reference], dim=2), "b t c h w -> b c t h w")


def guide(unconditional: Tensor, conditional: Tensor, guidance_scale: float) -> Tensor:
    """Return the guided prediction. Source: classifier-free guidance (arXiv 2207.12598)."""
    return unconditional + guidance_scale * (conditional - unconditional)


@torch.no_grad()
def sample(
    predict: Callable[[Tensor, Tensor], Tensor], noise: Tensor, scheduler: DDIMScheduler, num_steps: int
) -> Tensor:
    """Return clean latents, by DDIM from `noise`.

    Args:
        predict: (latents (B, T, C, H, W), timestep ()) -> prediction of the latents' shape.
        num_steps: denoising steps, 20 in the released models.
    """
    steps = deepcopy(scheduler)
    steps.set_timesteps(num_steps, device=noise.device)
    latents = noise * steps.init_noise_sigma
    for timestep in steps.timesteps:
        latents = steps.step(predict(latents, timestep), int(timestep), latents, return_dict=False)[0]
    return latents
