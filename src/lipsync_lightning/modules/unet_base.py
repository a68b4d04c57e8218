"""What both U-Net stages have beside their steps: parts, optimizer, checkpoints, and samples for validation."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from difflib import get_close_matches
from functools import partial
from math import inf
from typing import Any

import torch
from diffusers.optimization import get_constant_schedule
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu

from lipsync_lightning import diffusion
from lipsync_lightning.clip import ClipBatch, ClipSpec
from lipsync_lightning.errors import BadConfig
from lipsync_lightning.losses.terms import WeightedLosses
from lipsync_lightning.models.autoencoder import Autoencoder, encoder_fingerprint
from lipsync_lightning.models.compiling import compile_blocks
from lipsync_lightning.models.lora import SCALE, add_lora
from lipsync_lightning.models.unet import LipSyncUNet, require_fitting_latents
from lipsync_lightning.models.weights_io import enable_checkpointing, frozen, load_matching, store_in
from lipsync_lightning.modules import hooks
from lipsync_lightning.modules.rebuilding import RebuiltModule
from lipsync_lightning.modules.rng import ClipRNG
from lipsync_lightning.modules.weights import network_weights


class UNetModule(RebuiltModule):
    """Denoises clips given mask, masked frames, reference frames and audio tokens."""

    published_parts: Sequence[str] = ("",)  # of parameter names, that learn
    frozen_parts = ("autoencoder", "losses")
    on_save_checkpoint = hooks.leave_out_frozen
    on_load_checkpoint = hooks.put_back_frozen

    def __init__(
        self,
        *,
        losses: WeightedLosses,
        autoencoder: Autoencoder,
        unet: LipSyncUNet,
        scheduler: DDIMScheduler,
        clip: ClipSpec,
        optimizer: hooks.OptimizerFactory = hooks.published_adamw,
        schedule: hooks.ScheduleFactory = get_constant_schedule,
        trainable: Sequence[str] | None = None,
        lora: Mapping[str, Any] | None = None,
        timesteps: Any = "uniform",
        mixed_noise_alpha: float = 1.0,
        audio_dropout: float = 0.1,
        frozen_dtype: str = "float32",
        gradient_checkpointing: bool = False,
        offload_activations: bool = False,
        compile: bool = False,
        num_inference_steps: int = 20,
        guidance_scale: float = 1.5,
    ) -> None:
        """Args:
        trainable: parts of parameter names; parameters that contain none of them are frozen. [""] trains all.
            None: those of the published training.
        lora: arguments of `add_lora`, inside the trainable parts, whose other weights `load_weights` gives. None, or
            one without a rank: no LoRA.
        timesteps: those it is trained at, see `diffusion.timestep_density`.
        mixed_noise_alpha: how much of the noise the frames of a clip share.
        audio_dropout: share of clips trained without sound, which guidance needs; 0 in the published training.
        frozen_dtype: torch's name of the type in which the autoencoder computes, and judges and LoRA's base are stored.
        gradient_checkpointing: compute what U-Net, decoder and losses compute again in backward instead of keeping it.
        offload_activations: keep in the host's memory what backward needs; costs the time to copy it.
        compile: compile the blocks of U-Net and autoencoder.
        num_inference_steps, guidance_scale: of `generate`, for validation.
        """
        super().__init__()
        trainable = self.published_parts if trainable is None else trainable
        require_fitting_latents(unet, autoencoder)
        if not (0 <= audio_dropout <= 1 and 0 <= guidance_scale < inf and num_inference_steps >= 1):
            told = f"{audio_dropout=} {guidance_scale=} {num_inference_steps=}"
            raise BadConfig(f"module: {told}: give a share of 0 to 1, a finite number, and 1 or more")
        self.losses = losses
        self.autoencoder = frozen(autoencoder)  # pyright: ignore[reportArgumentType]
        self.autoencoder_fingerprint = encoder_fingerprint(self.autoencoder)
        store_in(getattr(torch, frozen_dtype), self.autoencoder)
        store_in(getattr(torch, frozen_dtype), self.losses, fewest_dims=2)  # autocast rounds these at every use anyway
        self.unet = unet
        self.scheduler = scheduler
        self.optimizer = optimizer
        self.schedule = schedule
        self.clip = clip
        self.timestep_density = diffusion.timestep_density(timesteps, scheduler, num_inference_steps)
        losses.require_trained(self.timestep_density)
        self.mixed_noise_alpha = mixed_noise_alpha
        self.audio_dropout = audio_dropout
        self.num_inference_steps = num_inference_steps
        self.guidance_scale = guidance_scale
        self.activations = partial(save_on_cpu, torch.cuda.is_available()) if offload_activations else nullcontext
        if gradient_checkpointing:
            enable_checkpointing(self.unet, self.autoencoder, self.losses)
        if lora and lora["rank"] is not None:
            add_lora(self.unet, **lora, inside=trainable)
            parts = self.unet.named_modules(prefix="unet")
            base = {name: part for name, part in parts if not any(own.requires_grad for own in part.parameters())}
            for part in base.values():
                store_in(getattr(torch, frozen_dtype), part, fewest_dims=2)
            self.frozen_parts = (*self.frozen_parts, *base)
        else:
            require_parts(self.unet, trainable)
            for name, parameter in self.unet.named_parameters():
                parameter.requires_grad_(any(part in name for part in trainable))
        self.compiles = compile

    def setup(self, stage: str) -> None:
        """Raises: BadConfig, where nothing can be compiled."""
        if self.compiles:
            compile_blocks(self.unet, self.autoencoder, device=self.trainer.strategy.root_device.type)
            self.compiles = False

    def configure_optimizers(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return hooks.optimizer_with_schedule(self, self.unet)

    def generate(self, batch: ClipBatch) -> Tensor:
        """Return the frames (B, T, 3, H, W) in [-1, 1] that inference would make, from noise of each clip's seed."""
        num_frames, side = batch["frames"].shape[1], batch["frames"].shape[-1] // self.autoencoder.downscale
        rng = ClipRNG(batch["seed"], self.device)
        noise = rng.normal((1, self.autoencoder.latent_channels, side, side)).expand(-1, num_frames, -1, -1, -1)
        shown: dict[str, Any] = {key: batch[key] for key in ("frames", "reference", "audio", "keep_mask")}
        return diffusion.inpaint(
            self.unet,
            self.autoencoder,
            self.scheduler,
            **shown,
            noise=noise,
            generators=rng.generators,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
        )

    def load_weights(self, path: str, which: str | int = "last") -> None:
        """Start from another U-Net; temporal modules that one of both lacks stay as they are, or are left out.

        With LoRA they have to be there: what it stands beside does not learn.

        Raises: MissingWeights, WrongWeights.
        """
        weights = network_weights(path, "unet", which)
        own = {name.replace(".base_layer.", "."): name for name in self.unet.state_dict()}
        surplus = [name for name in weights if "motion_modules." in name and name not in own]
        if surplus:
            told = f"{len(surplus)} weights of temporal modules that this U-Net has not, such as {surplus[0]}"
            rank_zero_warn(f"init_from={path}: left out are {told}")
        weights = {own.get(name, name): weight for name, weight in weights.items() if name not in set(surplus)}
        load_matching(self.unet, weights, allowed_missing=("lora_",) if SCALE in own else ("motion_modules.",))


def require_parts(network: nn.Module, trainable: Sequence[str]) -> None:
    """Raises: BadConfig, for a part that no parameter's name contains."""
    names = [name for name, _ in network.named_parameters()]
    for part in trainable:
        if not any(part in name for name in names):
            there = sorted({word for name in names for word in name.split(".") if not word.isdecimal()})
            near = get_close_matches(part.strip("."), there, n=3) or there
            raise BadConfig(f"module.trainable: no parameter's name contains {part!r}; did you mean {', '.join(near)}?")
