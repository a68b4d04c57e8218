"""Stage 1: the U-Net learns to fill in the mouth, frame by frame, from noise alone."""

from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from lipsync_lightning import diffusion
from lipsync_lightning.clip import ClipBatch, LatentBatch
from lipsync_lightning.errors import ClipMismatch
from lipsync_lightning.losses.terms import StepOutput
from lipsync_lightning.media.masks import latent_keep_mask
from lipsync_lightning.models.autoencoder import drawn
from lipsync_lightning.modules.hooks import log_losses
from lipsync_lightning.modules.rng import ClipRNG
from lipsync_lightning.modules.unet_base import UNetModule


class UNetStage1Module(UNetModule):
    """Trains the whole U-Net on the diffusion target, from pixels or from latents that were encoded ahead of time.

    From the same draws both give the same, up to the half precision in which latents are stored.
    """

    def training_step(self, batch: ClipBatch | LatentBatch, batch_idx: int) -> Tensor:
        rng = ClipRNG(batch["seed"], self.device)
        with self.activations():
            step = self.denoise(batch, rng.uniform() >= self.audio_dropout, rng)
            return log_losses(self, "train", self.losses(step), batch)

    def validation_step(self, batch: ClipBatch | LatentBatch, batch_idx: int) -> None:
        rng = ClipRNG(batch["seed"], self.device)  # the same draws at every validation
        step = self.denoise(batch, np.ones(len(batch["seed"]), dtype=bool), rng)
        log_losses(self, "val", self.losses(step), batch)

    def denoise(self, batch: Any, has_audio: np.ndarray, rng: ClipRNG) -> StepOutput:
        """Noise the target frames, let the U-Net undo it, and return what the losses read.

        Args: has_audio: (B,), bool; the other clips are denoised without sound.
        Raises: ClipMismatch, if another autoencoder made the batch's latents.
        """
        if "latents" in batch:
            clean, masked, reference = stored_latents(batch, self.autoencoder_fingerprint, rng)
        else:
            masked_frames = batch["frames"] * rearrange(batch["keep_mask"], "b 1 h w -> b 1 1 h w")
            videos = (batch["frames"], masked_frames, batch["reference"])
            clean, masked, reference = (diffusion.encode(self.autoencoder, each, rng.generators) for each in videos)
        mask = latent_keep_mask(batch["keep_mask"], self.autoencoder.downscale)
        conditioning = diffusion.Conditioning(mask, masked, reference)

        noise = diffusion.mix_noise(rng.normal(clean.shape[1:]), rng.normal(clean.shape[1:]), self.mixed_noise_alpha)
        timesteps = rng.timesteps(self.timestep_density)
        timesteps_B = rng.on_device(timesteps)
        noisy = self.scheduler.add_noise(clean, noise, timesteps_B)  # pyright: ignore[reportArgumentType]

        audio = batch["audio"] * rearrange(rng.on_device(has_audio), "b -> b 1 1 1")
        prediction = diffusion.predict(self.unet, conditioning, noisy, timesteps_B, audio)
        target = diffusion.training_target(self.scheduler, clean, noise, timesteps_B)
        known = {"timesteps": timesteps, "has_audio": has_audio, "keep_mask": batch["keep_mask"]}
        return StepOutput(prediction=prediction, target=target, **known)


@torch.no_grad()
def stored_latents(batch: LatentBatch, made_by: str, rng: ClipRNG) -> list[Tensor]:
    """Return latents (B, T, C, h, w) of target, masked target and reference, drawn from their stored posteriors.

    Raises: ClipMismatch, if another autoencoder than that of the fingerprint `made_by` has made them.
    """
    require_made_by(batch, made_by)
    num_frames = batch["latents"].shape[1]
    latents = []
    for posteriors in (batch["latents"], batch["masked_latents"], batch["reference_latents"]):
        mean_NCHW, std_NCHW = rearrange(posteriors.float(), "b t m c h w -> m (b t) c h w")
        latents.append(rearrange(drawn(mean_NCHW, std_NCHW, rng.generators), "(b t) c h w -> b t c h w", t=num_frames))
    return latents


def require_made_by(batch: Any, made_by: str) -> None:
    """Raises: ClipMismatch, if another autoencoder than that of the fingerprint `made_by` made the batch's latents."""
    for clip, fingerprint in zip(batch["id"], batch["made_by"], strict=True):
        if fingerprint != made_by:
            raise ClipMismatch(
                f"the latents of {clip} were made by another autoencoder than module.autoencoder; encode the shards "
                "again with this one (python -m lipsync_lightning.latents), or train with that one"
            )
