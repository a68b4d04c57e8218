"""From noise to faces that speak: the sampling that inference, validation and evaluation share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from einops import rearrange
from torch import Tensor

from lipsync_lightning import diffusion
from lipsync_lightning.media.masks import latent_keep_mask


@dataclass(frozen=True)
class Inpainter:
    """The networks that fill in mouths.

    unet: LipSyncUNet; autoencoder: models.autoencoder.Autoencoder. Both compute in a type of their own, schedules always in float32.
    """

    unet: Any
    autoencoder: Any
    scheduler: DDIMScheduler

    @torch.no_grad()
    def __call__(
        self,
        *,
        frames: Tensor,
        reference: Tensor,
        audio: Tensor,
        keep_mask: Tensor,
        noise: Tensor,
        num_inference_steps: int,
        guidance_scale: float,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """Return the frames with new mouths, (B, T, 3, H, W) in [-1, 1]; what the mask keeps is the input's.

        Args:
            frames, reference: (B, T, 3, H, W) in [-1, 1], aligned faces; of the frames only what the mask keeps is seen.
            audio: (B, T, A, D) tokens of what they are to say.
            keep_mask: (B, 1, H, W), 1 = keep, 0 = to be generated.
            noise: (B, T, C, h, w), standard normal.
            guidance_scale: 1 or less needs no second pass without sound.
            generators: B of them, for autoencoders that draw their latents; None draws from torch's global one.
        """
        keep = rearrange(keep_mask, "b 1 h w -> b 1 1 h w").to(frames)
        masked, shown = (self._encode(pictures, generators) for pictures in (frames * keep, reference))
        mask = latent_keep_mask(keep_mask, self.autoencoder.downscale)
        branches = [audio] if guidance_scale <= 1 else [torch.zeros_like(audio), audio]
        tokens = torch.cat(branches).to(self.unet.dtype)

        def predict(latents: Tensor, timestep: Tensor) -> Tensor:
            unet_input = torch.cat([diffusion.unet_input(latents, mask, masked, shown)] * len(branches))
            prediction = self.unet(unet_input.to(self.unet.dtype), timestep.expand(len(unet_input)), tokens).float()
            predictions = rearrange(prediction, "(k b) c t h w -> k b t c h w", k=len(branches))
            return (
                predictions[0]
                if len(branches) == 1
                else diffusion.guide(predictions[0], predictions[1], guidance_scale)
            )

        latents = diffusion.sample(predict, noise, self.scheduler, num_inference_steps)
        generated = (
            self.autoencoder.decode(rearrange(latents, "b t c h w -> (b t) c h w").to(self.autoencoder.dtype))
            .float()
            .clamp(-1, 1)
        )
        return frames * keep + rearrange(generated, "(b t) c h w -> b t c h w", b=len(frames)) * (1 - keep)

    def _encode(self, pictures: Tensor, generators: Sequence[torch.Generator] | None) -> Tensor:
        of_frames = None if generators is None else [own for own in generators for _ in range(pictures.shape[1])]
        latents = self.autoencoder.encode(
            rearrange(pictures, "b t c h w -> (b t) c h w").to(self.autoencoder.dtype), of_frames
        )
        return rearrange(latents.float(), "(b t) c h w -> b t c h w", b=len(pictures))
