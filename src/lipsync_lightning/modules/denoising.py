"""What both U-Net stages share: one denoising step on a batch of clips."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from einops import rearrange
from lightning import LightningModule
from torch import Tensor

from lipsync_lightning import diffusion
from lipsync_lightning.clip import ClipBatch, ClipSpec
from lipsync_lightning.inpainting import Inpainter
from lipsync_lightning.losses.weighted import WeightedLosses
from lipsync_lightning.media.masks import latent_keep_mask
from lipsync_lightning.models.autoencoder import Autoencoder
from lipsync_lightning.models.unet import LipSyncUNet
from lipsync_lightning.models.weights_io import frozen, load_matching
from lipsync_lightning.modules.checkpointing import leave_out_frozen, put_back_frozen
from lipsync_lightning.modules.draws import ClipDraws
from lipsync_lightning.modules.optimization import OptimizerFactory, ScheduleFactory, optimizer_with_schedule
from lipsync_lightning.modules.weights import network_weights

FROZEN_PARTS = ("autoencoder", "losses")
LossInputs = dict[str, Callable[[], tuple[Tensor, ...]]]


@dataclass(frozen=True)
class Shown:
    """What the U-Net is shown of a clip beside noisy latents. Latents are (B, T, C, h, w)."""

    mask: Tensor  # (B, 1, h, w)
    masked: Tensor
    reference: Tensor


@dataclass(frozen=True)
class DenoisingStep:
    """What the losses read. Latents are (B, T, C, h, w)."""

    prediction: Tensor  # what the network said: noise or velocity, as the schedule has it
    target: Tensor  # what it should have said
    clean_pred: Tensor  # one-step estimate of the clean latents
    timesteps: Tensor  # (B,)
    noise: Tensor
    shown: Shown
    heard: Tensor  # (B,), bool: False where the sound was dropped


class DenoisingModule(LightningModule):
    """Denoises clips given mask, masked frames, reference frames and audio tokens."""

    def __init__(
        self,
        *,
        losses: WeightedLosses,
        autoencoder: Autoencoder,
        unet: LipSyncUNet,
        scheduler: DDIMScheduler,
        optimizer: OptimizerFactory,
        schedule: ScheduleFactory,
        clip: ClipSpec,
        trainable: Sequence[str],
        mixed_noise_alpha: float,
        audio_dropout: float,
        gradient_checkpointing: bool,
        num_inference_steps: int,
        guidance_scale: float,
    ) -> None:
        """Args:
        trainable: parts of parameter names; parameters that contain none of them are frozen. [""] trains all.
        mixed_noise_alpha: how much of the noise the frames of a clip share.
        audio_dropout: share of clips trained without sound, which guidance needs; 0 in the published training.
        gradient_checkpointing: compute the activations of U-Net, decoder and losses again in backward instead of keeping them.
        num_inference_steps, guidance_scale: of `generate`, for validation.
        """
        super().__init__()
        self.losses = losses
        self.autoencoder = frozen(autoencoder)  # pyright: ignore[reportArgumentType]
        self.unet = unet
        self.scheduler = scheduler
        self.optimizer = optimizer
        self.schedule = schedule
        self.clip = clip
        self.mixed_noise_alpha = mixed_noise_alpha
        self.audio_dropout = audio_dropout
        self.num_inference_steps = num_inference_steps
        self.guidance_scale = guidance_scale
        if gradient_checkpointing:
            self.losses.checkpointing = True
            for network in (self.unet, self.autoencoder):
                if network._supports_gradient_checkpointing:  # of diffusers; the linear autoencoder keeps nothing
                    network.enable_gradient_checkpointing()
        for name, parameter in self.unet.named_parameters():
            parameter.requires_grad_(any(part in name for part in trainable))

    def loss_inputs(self, batch: ClipBatch, step: DenoisingStep) -> LossInputs:
        """Return what each loss term this stage serves would read."""
        return {
            "noise": lambda: (step.prediction, step.target),
            "noise_min_snr": lambda: (step.prediction, step.target, step.timesteps),
        }

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        draws = ClipDraws(batch["seed"], self.device)
        step = self.denoise(batch, draws.uniform() >= self.audio_dropout, draws)
        total, terms = self.losses(self.loss_inputs(batch, step), step.timesteps, self.clips_that_count(batch, step))
        self.log("train/loss", total, prog_bar=True, sync_dist=True)
        self.log_dict({f"train/loss_{name}": value for name, value in terms.items()}, sync_dist=True)
        return total

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        draws = ClipDraws(batch["seed"], self.device)  # the same every time
        step = self.denoise(batch, torch.ones_like(batch["seed"], dtype=torch.bool), draws)
        total, terms = self.losses(self.loss_inputs(batch, step), step.timesteps, self.clips_that_count(batch, step))
        values = {"val/loss": total, **{f"val/loss_{name}": value for name, value in terms.items()}}
        self.log_dict(values, batch_size=len(batch["audio"]), sync_dist=True)

    def clips_that_count(self, batch: ClipBatch, step: DenoisingStep) -> dict[str, Tensor]:
        """Return by loss term which clips (B,) it may look at, for terms that may not look at all."""
        return {}

    def configure_optimizers(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return optimizer_with_schedule(self.unet.parameters(), self.optimizer, self.schedule)

    def denoise(self, batch: ClipBatch, heard: Tensor, draws: ClipDraws) -> DenoisingStep:
        """Noise the target frames, let the U-Net undo it, and return what the losses need.

        Args: heard: (B,), bool; the other clips are denoised without sound.
        """
        target, masked, reference = self._encode(batch, draws)
        shown = Shown(latent_keep_mask(batch["keep_mask"], self.autoencoder.downscale), masked, reference)
        noise = diffusion.mix_noise(
            draws.normal(target.shape[1:]), draws.normal(target.shape[1:]), self.mixed_noise_alpha
        )
        timesteps_B = draws.integers(self.scheduler.config["num_train_timesteps"])
        noisy = self.scheduler.add_noise(target, noise, timesteps_B)  # pyright: ignore[reportArgumentType]
        prediction = self.predict(noisy, shown, timesteps_B, batch["audio"] * rearrange(heard, "b -> b 1 1 1"))
        return DenoisingStep(
            prediction,
            diffusion.training_target(self.scheduler, target, noise, timesteps_B),
            diffusion.predict_clean(self.scheduler, prediction, noisy, timesteps_B),
            timesteps_B,
            noise,
            shown,
            heard,
        )

    def predict(self, noisy: Tensor, shown: Shown, timesteps: Tensor, audio: Tensor) -> Tensor:
        """Return what the U-Net says of noisy latents (B, T, C, h, w), in float32, in their shape."""
        prediction = self.unet(diffusion.unet_input(noisy, shown.mask, shown.masked, shown.reference), timesteps, audio)
        return rearrange(prediction, "b c t h w -> b t c h w").float()

    def generate(self, batch: ClipBatch) -> Tensor:
        """Return the frames (B, T, 3, H, W) in [-1, 1] that inference would make of the batch, each clip from noise of its own seed."""
        side = batch["frames"].shape[-1] // self.autoencoder.downscale
        shape = (1, self.autoencoder.latent_channels, side, side)
        draws = ClipDraws(batch["seed"], self.device)
        inpaint = Inpainter(self.unet, self.autoencoder, self.scheduler)
        return inpaint(
            **{key: batch[key] for key in ("frames", "reference", "audio", "keep_mask")},
            noise=draws.normal(shape).expand(-1, batch["frames"].shape[1], -1, -1, -1),
            generators=draws.generators,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
        )

    def decode(self, latents: Tensor) -> Tensor:
        """Return the (B, T, 3, H, W) frames of (B, T, C, h, w) latents, with gradients."""
        frames_NCHW = self.autoencoder.decode(rearrange(latents, "b t c h w -> (b t) c h w"))
        return rearrange(frames_NCHW, "(b t) c h w -> b t c h w", b=len(latents))

    def load_weights(self, path: str) -> None:
        """Start from another run's U-Net; temporal modules it lacks stay as initialised. Raises: MissingWeights, WrongWeights."""
        load_matching(self.unet, network_weights(path, "unet"), allowed_missing=("motion_modules.",))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        leave_out_frozen(checkpoint, FROZEN_PARTS, self.clip)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        put_back_frozen(checkpoint, self, FROZEN_PARTS, self.clip)

    @torch.no_grad()
    def _encode(self, batch: ClipBatch, draws: ClipDraws) -> tuple[Tensor, Tensor, Tensor]:
        """Return latents (B, T, C, h, w) of the target, the masked target and the reference."""
        masked = batch["frames"] * rearrange(batch["keep_mask"], "b 1 h w -> b 1 1 h w")
        pictures = torch.stack([batch["frames"], masked, batch["reference"]])
        generators = [own for _ in pictures for own in draws.generators for _ in range(batch["frames"].shape[1])]
        latents_NCHW = self.autoencoder.encode(rearrange(pictures, "k b t c h w -> (k b t) c h w"), generators)
        latents_NCHW = latents_NCHW.float()  # bf16 has no room for ᾱ near 1
        target, masked, reference = rearrange(latents_NCHW, "(k b t) c h w -> k b t c h w", k=3, b=len(batch["frames"]))
        return target, masked, reference
