"""Stage 2: temporal layers and attention learn from what the decoded frames look and sound like."""

from functools import partial

import numpy as np
from einops import rearrange
from torch import Tensor

from lipsync_lightning import diffusion
from lipsync_lightning.clip import ClipBatch
from lipsync_lightning.losses.terms import StepOutput
from lipsync_lightning.media.masks import latent_keep_mask
from lipsync_lightning.modules.hooks import log_losses
from lipsync_lightning.modules.rng import ClipRNG
from lipsync_lightning.modules.unet_base import UNetModule


class UNetStage2Module(UNetModule):
    """Trains the published parameter groups, by any losses: they may read all of a `StepOutput`."""

    published_parts = ("motion_modules.", "attentions.")

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        rng = ClipRNG(batch["seed"], self.device)
        with self.activations():
            step = self.denoise(batch, rng.uniform() >= self.audio_dropout, rng)
            return log_losses(self, "train", self.losses(step), batch)

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        rng = ClipRNG(batch["seed"], self.device)  # the same draws at every validation
        step = self.denoise(batch, np.ones(len(batch["seed"]), dtype=bool), rng)
        log_losses(self, "val", self.losses(step), batch)

    def denoise(self, batch: ClipBatch, has_audio: np.ndarray, rng: ClipRNG) -> StepOutput:
        """Noise the target frames, let the U-Net undo it, and return what the losses read.

        Args: has_audio: (B,), bool; the other clips are denoised without sound.
        """
        masked_frames = batch["frames"] * rearrange(batch["keep_mask"], "b 1 h w -> b 1 1 h w")
        videos = (batch["frames"], masked_frames, batch["reference"])
        clean, masked, reference = (diffusion.encode(self.autoencoder, each, rng.generators) for each in videos)
        mask = latent_keep_mask(batch["keep_mask"], self.autoencoder.downscale)
        conditioning = diffusion.Conditioning(mask, masked, reference)

        noise = diffusion.mix_noise(rng.normal(clean.shape[1:]), rng.normal(clean.shape[1:]), self.mixed_noise_alpha)
        timesteps = rng.timesteps(self.timestep_density)
        timesteps_B = rng.on_device(timesteps)
        noisy = self.scheduler.add_noise(clean, noise, timesteps_B)  # pyright: ignore[reportArgumentType]

        predict = partial(diffusion.predict, self.unet, conditioning)
        prediction = predict(noisy, timesteps_B, batch["audio"] * rearrange(rng.on_device(has_audio), "b -> b 1 1 1"))
        return StepOutput(
            prediction=prediction,
            target=diffusion.training_target(self.scheduler, clean, noise, timesteps_B),
            clean_pred=diffusion.predict_clean(self.scheduler, prediction, noisy, timesteps_B),
            timesteps=timesteps,
            noise=noise,
            has_audio=has_audio,
            ids=batch["id"],
            **{field: batch[field] for field in ("frames", "mel", "audio", "keep_mask")},
            decode=partial(diffusion.decode, self.autoencoder),  # called once, and only if a loss looks at frames
            predict=predict,
        )
