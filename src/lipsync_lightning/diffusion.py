"""The diffusion process as plain functions: latents, noise, prediction, targets, the one-step estimate, sampling.

Latents are (B, T, C, h, w). Schedules are diffusers' `DDIMScheduler`, so prediction type and betas are YAML.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from einops import rearrange, repeat
from torch import Tensor

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.media.masks import latent_keep_mask

TINY = 1e-7  # diffusers' zero terminal signal-to-noise ratio is 2^-24 in some versions


class Conditioning(NamedTuple):
    """What the U-Net is given of a clip beside noisy latents and sound."""

    keep_mask: Tensor  # (B, 1, h, w), 1 = keep, 0 = to be generated
    masked: Tensor  # (B, T, C, h, w), latents of the frames without what is to be generated
    reference: Tensor  # (B, T, C, h, w), latents of other frames of the same person


@torch.no_grad()
def encode(autoencoder: Any, video: Tensor, generators: Sequence[torch.Generator] | None) -> Tensor:
    """Return latents (B, T, C, h, w) of a video (B, T, 3, H, W) in [-1, 1], in float32: bf16 has no room for ᾱ near 1.

    Args: generators: one per clip, for autoencoders that draw their latents; None draws from torch's global one.
    """
    frames_NCHW = rearrange(video, "b t c h w -> (b t) c h w").to(autoencoder.dtype)
    with own_precision(autoencoder, video):
        latents_NCHW = autoencoder.encode(frames_NCHW, generators).float()
    return rearrange(latents_NCHW, "(b t) c h w -> b t c h w", b=len(video))


def decode(autoencoder: Any, latents: Tensor) -> Tensor:
    """Return the frames (B, T, 3, H, W), about in [-1, 1], of latents (B, T, C, h, w), with gradients."""
    latents_NCHW = rearrange(latents, "b t c h w -> (b t) c h w").to(autoencoder.dtype)
    with own_precision(autoencoder, latents):
        frames_NCHW = autoencoder.decode(latents_NCHW)
    return rearrange(frames_NCHW, "(b t) c h w -> b t c h w", b=len(latents))


def own_precision(autoencoder: Any, given: Tensor) -> torch.autocast:
    """An autoencoder in half precision computes in it: autocast would go to float32 and back at every norm."""
    is_half = autoencoder.dtype in (torch.float16, torch.bfloat16)
    return torch.autocast(given.device.type, enabled=torch.is_autocast_enabled(given.device.type) and not is_half)


def mix_noise(shared: Tensor, independent: Tensor, alpha: float) -> Tensor:
    """Return unit-variance noise that the frames of a clip share in part.

    Args:
        shared: (B, T, C, h, w), standard normal; only frame 0 is used, for every frame.
        independent: (B, T, C, h, w), standard normal.
        alpha: 0 gives independent frames, infinity one noise for all.
    Source: LatentSync (arXiv 2412.09262), mixed noise: s²·shared + i²·independent with s² = a²/(1+a²), i² = 1/(1+a²).
    """
    own_variance = 1 / (1 + alpha**2)  # 0 for infinity
    return (1 - own_variance) ** 0.5 * shared[:, :1] + own_variance**0.5 * independent


def timestep_density(choice: Any, scheduler: SchedulerMixin, num_inference_steps: int) -> np.ndarray:
    """Return how often each timestep of a schedule is trained at, (num_train_timesteps,), of sum 1.

    Args:
        choice: "uniform", as published; "sampler", those that sampling in `num_inference_steps` visits; [lowest,
            highest]; or {"logit_normal": [mean, std]} of t / num_train_timesteps.
    Raises: BadConfig, for anything else, and for timesteps outside the schedule.
    Source: logit-normal density, arXiv 2403.03206, section 3.1.
    """
    num = int(scheduler.config["num_train_timesteps"])  # pyright: ignore[reportAttributeAccessIssue]
    density = np.zeros(num)
    match choice:
        case "uniform":
            density[:] = 1
        case "sampler":
            density[visited_timesteps(scheduler, num_inference_steps)] = 1
        case [int(lowest), int(highest)] if 0 <= lowest <= highest < num:
            density[lowest : highest + 1] = 1
        case {"logit_normal": [int() | float() as mean, int() | float() as std]} if std > 0:
            share = (np.arange(num) + 0.5) / num
            logit = np.log(share / (1 - share))
            density = np.exp(-(((logit - mean) / std) ** 2) / 2) / (share * (1 - share))
        case _:
            known = f"uniform, sampler, [lowest, highest] within 0 to {num - 1}, or {{logit_normal: [mean, std]}}"
            raise BadConfig(f"timesteps={choice!r}: give {known}")
    return density / density.sum()


def visited_timesteps(scheduler: SchedulerMixin, num_steps: int) -> list[int]:
    """Return the timesteps at which sampling in so many steps asks the network, the noisiest first."""
    steps: Any = deepcopy(scheduler)
    steps.set_timesteps(num_steps)
    return steps.timesteps.tolist()


def require_trained(scheduler: SchedulerMixin, num_steps: int, stretches: Sequence[Sequence[int]] | None) -> None:
    """Raises: BadConfig, if sampling in so many steps visits a timestep outside [lowest, highest] of every stretch."""
    for timestep in visited_timesteps(scheduler, num_steps) if stretches else ():
        if not any(lowest <= timestep <= highest for lowest, highest in stretches or ()):
            trained = ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in stretches or ())
            visits = f"num_inference_steps={num_steps} of {type(scheduler).__name__} visits timestep {timestep}"
            raise BadConfig(f"{visits}, but the U-Net was trained at {trained} only; sample where it was trained")


def unet_input(noisy: Tensor, conditioning: Conditioning) -> Tensor:
    """Return the U-Net's (B, C, T, h, w) input: noisy latents, mask, masked frames' latents, reference frames' latents.

    Source: channel order of the released LatentSync checkpoints.
    """
    mask = repeat(conditioning.keep_mask, "b c h w -> b t c h w", t=noisy.shape[1]).to(noisy)
    stacked = torch.cat([noisy, mask, conditioning.masked, conditioning.reference], dim=2)
    return rearrange(stacked, "b t c h w -> b c t h w")


def predict(unet: Any, conditioning: Conditioning, noisy: Tensor, timesteps: Tensor, audio: Tensor) -> Tensor:
    """Return what the U-Net says of noisy latents (B, T, C, h, w) at timesteps (B,) given tokens (B, T, A, D)."""
    prediction = unet(unet_input(noisy, conditioning).to(unet.dtype), timesteps, audio.to(unet.dtype))
    return rearrange(prediction, "b c t h w -> b t c h w").float()


def training_target(scheduler: DDIMScheduler, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return what the network should predict, as the schedule's prediction type says: the noise, or the velocity.

    Raises: BadConfig, for a prediction type that training does not know, or that the schedule makes impossible.
    """
    match scheduler.config["prediction_type"]:
        case "epsilon":
            if scheduler.config["rescale_betas_zero_snr"]:
                raise BadConfig(
                    "prediction_type epsilon does not work with zero terminal signal-to-noise ratio: from pure noise "
                    "the clean latents are 0/0; use v_prediction, or rescale_betas_zero_snr=false"
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
        prediction, noisy: (B, T, C, h, w).
        timesteps: (B,), one per clip.
    Source: epsilon: x0 = (x_t − sqrt(1−ᾱ)·ε)/sqrt(ᾱ), DDIM (arXiv 2010.02502); velocity: x0 = sqrt(ᾱ)·x_t − sqrt(1−ᾱ)·v
        (arXiv 2202.00512).
    """
    alpha_bar = rearrange(scheduler.alphas_cumprod.to(noisy)[timesteps], "b -> b 1 1 1 1")
    if scheduler.config["prediction_type"] == "v_prediction":
        return alpha_bar.sqrt() * noisy - (1 - alpha_bar).sqrt() * prediction
    return (noisy - (1 - alpha_bar).sqrt() * prediction) / alpha_bar.sqrt()


@torch.no_grad()
def sample(
    predict_at: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    scheduler: SchedulerMixin,
    num_steps: int,
    on_step_end: Callable[[int, float, Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return clean latents, from `noise` by a scheduler's own solver; nothing in it waits for the device.

    Args:
        predict_at: (latents (B, T, C, h, w), timestep ()) -> prediction of the latents' shape.
        num_steps: denoising steps, 20 in the released models.
        on_step_end: is given step, timestep and latents, and returns those to go on with.
        generator: of the noise that some solvers add at every step.
    """
    names = ("generator",) if "generator" in signature(scheduler.step).parameters else ()  # pyright: ignore
    draws = dict.fromkeys(names, generator)
    steps: Any = deepcopy(scheduler)
    steps.set_timesteps(num_steps)
    if hasattr(steps, "set_begin_index"):
        steps.set_begin_index(0)  # or it would look for the first timestep among all
    latents = noise * steps.init_noise_sigma
    on_device = steps.timesteps.to(noise.device)
    for step, timestep in enumerate(steps.timesteps.tolist()):
        prediction = predict_at(steps.scale_model_input(latents, timestep), on_device[step])
        latents = steps.step(prediction, timestep, latents, return_dict=False, **draws)[0]
        if on_step_end is not None:
            latents = on_step_end(step, timestep, latents)
    return latents


@torch.no_grad()
def inpaint(
    unet: Any,
    autoencoder: Any,
    scheduler: SchedulerMixin,
    *,
    frames: Tensor,
    reference: Tensor,
    audio: Tensor,
    keep_mask: Tensor,
    noise: Tensor,
    num_inference_steps: int,
    guidance_scale: float,
    generators: Sequence[torch.Generator] | None = None,
    decoder: Any = None,
    visit: Any = nullcontext,
    on_step_end: Callable[[int, float, Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the frames with new mouths, (B, T, 3, H, W) in [-1, 1]; what the mask keeps is the input's.

    Inference, validation and evaluation all sample here. Networks compute in their own type, the schedule in float32.

    Args:
        unet: LipSyncUNet. autoencoder: models.autoencoder.Autoencoder.
        frames, reference: (B, T, 3, H, W) in [-1, 1], aligned faces; of `frames` only what the mask keeps is seen.
        audio: (B, T, A, D) tokens of what they are to say.
        keep_mask: (B, 1, H, W), 1 = keep, 0 = to be generated; this and the next two: or of one clip for all.
        noise: (B, T, C, h, w), standard normal.
        generators: see `encode`; a clip draws all that it needs before the next one does, as if it were alone.
        guidance_scale: 1 or less needs no second pass without sound.
        decoder: decodes in place of the autoencoder.
        visit: (network) -> context manager, within which that network works. on_step_end: see `sample`.
    Source: classifier-free guidance (arXiv 2207.12598).
    """
    keep = rearrange(keep_mask, "b 1 h w -> b 1 1 h w").to(frames)
    own = [None if generators is None else [generators[clip % len(generators)]] for clip in range(len(frames))]
    with visit(autoencoder):
        clips = zip((frames * keep).split(1), reference.split(1), own, strict=True)
        encoded = [[encode(autoencoder, video, draws) for video in videos] for *videos, draws in clips]
    masked, shown = map(torch.cat, zip(*encoded, strict=True))
    branches = [audio] if guidance_scale <= 1 else [torch.zeros_like(audio), audio]
    mask = latent_keep_mask(keep_mask, autoencoder.downscale).expand(len(frames), -1, -1, -1)
    parts = (mask, masked, shown)
    conditioning = Conditioning(*(torch.cat([part] * len(branches)) for part in parts))
    tokens = torch.cat(branches)

    def predict_at(latents: Tensor, timestep: Tensor) -> Tensor:
        noisy = torch.cat([latents] * len(branches))
        prediction = predict(unet, conditioning, noisy, timestep.expand(len(noisy)), tokens)
        if guidance_scale <= 1:
            return prediction
        silent, spoken = prediction.chunk(2)
        return silent + guidance_scale * (spoken - silent)

    with visit(unet):
        start, generator = noise.expand_as(masked), None if generators is None else generators[0]
        latents = sample(predict_at, start, scheduler, num_inference_steps, on_step_end, generator)
    with visit(decoder or autoencoder):
        generated = decode(decoder or autoencoder, latents).float().clamp(-1, 1)
    return frames * keep + generated * (1 - keep)
