"""Between frames and the latents that the U-Net works on."""

import os
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol, Self, cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.resnet import ResnetBlock2D
from einops import einsum, rearrange
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lipsync_lightning.errors import BadConfig, ClipMismatch, MissingWeights
from lipsync_lightning.models.weights_io import fingerprint

RGB = 3
_SMALLEST_STD = 1e-6  # of the latents, in pixel values; below it frames are constant and must not be blown up
_NORM_GROUPS = 8

Generators = Sequence[torch.Generator] | None  # each draws for an equal share of the frames; None: the global one


class Autoencoder(Protocol):
    """Turns frames into latents of about unit variance, and back."""

    latent_channels: int
    downscale: int  # pixels of a frame for one of the latents, along height and along width

    @property
    def decoding(self) -> list[nn.Module]:
        """What `decode` uses and `encode` does not: it may learn while latents stay what they are."""
        ...

    def encode(self, frames: Tensor, generator: Generators = None) -> Tensor:
        """Return latents (N, latent_channels, H / downscale, W / downscale) of frames (N, 3, H, W) in [-1, 1]."""
        ...

    def posterior(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the latents that `encode` draws, each of their shape."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Return frames (N, 3, H, W), about in [-1, 1], of latents as `encode` gives them."""
        ...


def encoder_fingerprint(autoencoder: Any) -> str:
    """Return a hash of the weights that make latents: autoencoders of the same one can read each other's."""
    return fingerprint(autoencoder, leave_out=autoencoder.decoding)


def drawn(mean: Tensor, std: Tensor, generator: Generators) -> Tensor:
    """Return latents of a posterior (N, C, h, w), as `encode` draws them."""
    own = [None] if generator is None else generator
    shape = (len(mean) // len(own), *mean.shape[1:])
    noise = [torch.randn(shape, generator=each, device=mean.device, dtype=mean.dtype) for each in own]
    return mean + std * torch.cat(noise)


class StableDiffusionAutoencoder(ModelMixin, ConfigMixin):
    """Returns latents drawn from Stable Diffusion's VAE, scaled to about unit variance, and frames of them.

    Its folder is that of a plain `AutoencoderKL`: what it saves, diffusers loads, and the other way round.

    Args:
        vae: the network, such as `stabilityai/sd-vae-ft-mse`.
        frames_at_a_time: how many frames are in the network at once; bounds its memory, changes nothing else.
    """

    _supports_gradient_checkpointing = True
    gradient_checkpointing = False  # decode each piece of frames again in backward

    def __init__(self, *, vae: AutoencoderKL, frames_at_a_time: int = 16):
        super().__init__()
        self.register_to_config(**vae.config)
        self.vae = vae
        self.frames_at_a_time = frames_at_a_time
        self.latent_channels = int(vae.config["latent_channels"])
        self.downscale = 2 ** (len(vae.config["block_out_channels"]) - 1)
        self.scaling_factor = float(vae.config["scaling_factor"])
        self.shift_factor = float(vae.config["shift_factor"] or 0.0)

    @property
    def decoding(self) -> list[nn.Module]:
        return [part for part in (self.vae.decoder, self.vae.post_quant_conv) if part is not None]

    def encode(self, frames: Tensor, generator: Generators = None) -> Tensor:
        """Return latents (N, latent_channels, H / downscale, W / downscale): a sample of the posterior, not its mode.

        Args:
            frames: (N, 3, H, W) in [-1, 1].
            generator: of the sample.
        Source: LatentSync trains and runs on samples; the scale is that of arXiv 2112.10752, section G.
        """
        return drawn(*self.posterior(frames), generator)

    def posterior(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the scaled latents, each of the shape of `encode`'s."""
        _require_divisible(frames, self.downscale)
        pieces = [cast(Any, self.vae).encode(piece).latent_dist for piece in frames.split(self.frames_at_a_time)]
        moments = zip(*((each.mean, each.std) for each in pieces), strict=True)
        mean, std = (torch.cat(each).float() for each in moments)  # what is drawn has no room in half precision
        return (mean - self.shift_factor) * self.scaling_factor, std * self.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Return frames (N, 3, H, W), about in [-1, 1]."""
        unscaled = latents / self.scaling_factor + self.shift_factor
        again = self.gradient_checkpointing and torch.is_grad_enabled() and latents.requires_grad
        decode: Any = partial(checkpoint, self.vae.decode, use_reentrant=False) if again else self.vae.decode
        return torch.cat([decode(piece).sample for piece in unscaled.split(self.frames_at_a_time)])

    def enable_gradient_checkpointing(self, gradient_checkpointing_func: Any = None) -> None:
        """Keep only the latents of each piece of frames for backward."""
        self.gradient_checkpointing = True

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **options: Any) -> None:
        """Write the VAE's folder, as diffusers does."""
        self.vae.save_pretrained(save_directory, *args, **options)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike | None, **options: Any) -> Self:
        """Return the autoencoder of a folder or hub name that holds an `AutoencoderKL`."""
        return cls(vae=AutoencoderKL.from_pretrained(pretrained_model_name_or_path, **options))


class LinearAutoencoder(ModelMixin, ConfigMixin):
    """Returns the first principal components of each patch of pixels, and frames of them.

    One scale gives all components together unit variance, so that errors of latents weigh as those of pixels do. It is
    fitted in closed form, by `fit_from_moments`, and saved like any network.

    Args:
        patch: height and width of a patch, in pixels.
        latent_channels: components kept, at most 3 * patch * patch.
    """

    @register_to_config
    def __init__(self, *, patch: int, latent_channels: int):
        super().__init__()
        num_values = RGB * patch * patch
        if latent_channels > num_values:
            raise BadConfig(f"latent_channels={latent_channels}: a patch of {patch}x{patch} has {num_values} values")
        self.latent_channels = latent_channels
        self.downscale = patch
        self.register_buffer("basis", torch.zeros(latent_channels, num_values))
        self.register_buffer("mean", torch.zeros(num_values))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("is_fitted", torch.tensor(False))
        self.found_fitted = False
        self.basis: Tensor
        self.mean: Tensor
        self.scale: Tensor
        self.is_fitted: Tensor

    @property
    def decoding(self) -> list[nn.Module]:
        return []

    @torch.no_grad()
    def fit_from_moments(self, count: int, total: Tensor, outer: Tensor) -> None:
        """Set the components to those of `count` patches, of sum `total` (P,) and of summed outer products (P, P)."""
        mean_P = total.double() / count
        covariance_PP = outer.double() / count - torch.outer(mean_P, mean_P)
        variance_P, vectors_PP = torch.linalg.eigh(covariance_PP)
        strongest = torch.arange(len(variance_P) - 1, -1, -1, device=variance_P.device)[: self.latent_channels]
        basis_CP = rearrange(vectors_PP, "p c -> c p")[strongest]
        # A component's largest value is positive, so that a fit gives the same signs on every machine.
        signs_C1 = basis_CP.gather(1, basis_CP.abs().argmax(dim=1, keepdim=True)).sign()
        self.basis.copy_(basis_CP * signs_C1)
        self.mean.copy_(mean_P)
        self.scale.copy_(variance_P[strongest].mean().clamp(min=0).sqrt().clamp(min=_SMALLEST_STD))
        self.is_fitted.fill_(True)

    def encode(self, frames: Tensor, generator: Generators = None) -> Tensor:
        """Return latents (N, latent_channels, H / patch, W / patch); nothing is drawn.

        Raises: MissingWeights, before it is fitted. ClipMismatch, if patches do not cover the frames.
        """
        if not self.found_fitted:  # asked once: every time, the host would wait for the device
            if not self.is_fitted:
                raise MissingWeights("the linear autoencoder is not fitted; call `fit_from_moments` or load one")
            self.found_fitted = True
        _require_divisible(frames, self.downscale)
        patches_NHWP = frames_to_patches(frames, self.downscale) - self.mean
        return einsum(patches_NHWP, self.basis, "n h w p, c p -> n c h w") / self.scale

    def posterior(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latents and zeros, since nothing is drawn; errors of `encode`."""
        latents = self.encode(frames)
        return latents, torch.zeros_like(latents)

    def decode(self, latents: Tensor) -> Tensor:
        """Return frames (N, 3, H, W), about in [-1, 1]: linear in the latents."""
        patches_NHWP = einsum(latents * self.scale, self.basis, "n c h w, c p -> n h w p") + self.mean
        return rearrange(patches_NHWP, "n h w (c p q) -> n c (h p) (w q)", c=RGB, p=self.downscale)

    def forward(self, frames: Tensor) -> Tensor:
        """Return the frames after `encode` and `decode`."""
        return self.decode(self.encode(frames))


class RefinedAutoencoder(LinearAutoencoder):
    """A linear autoencoder whose frames a small network corrects, which `AutoencoderModule` trains.

    Args:
        patch, latent_channels: of `LinearAutoencoder`.
        width: channels of the network, a multiple of 8; num_blocks: its residual blocks, at the latents' resolution.
    """

    @register_to_config
    def __init__(self, *, patch: int, latent_channels: int, width: int, num_blocks: int):
        super().__init__(patch=patch, latent_channels=latent_channels)
        self.conv_in = nn.Conv2d(latent_channels, width, 3, padding=1)
        block: Any = partial(ResnetBlock2D, in_channels=width, groups=_NORM_GROUPS)
        self.blocks = nn.ModuleList(block(temb_channels=None) for _ in range(num_blocks))
        self.conv_out = nn.Conv2d(width, RGB * patch * patch, 3, padding=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)  # linear at first

    @property
    def decoding(self) -> list[nn.Module]:
        return [self.conv_in, self.blocks, self.conv_out]

    def decode(self, latents: Tensor) -> Tensor:
        """Return frames (N, 3, H, W), about in [-1, 1], of latents as `encode` gives them."""
        features = self.conv_in(latents)
        for block in self.blocks:
            features = block(features, None)
        return super().decode(latents) + functional.pixel_shuffle(self.conv_out(features), self.downscale)


class PatchMoments:
    """Sums over patches of frames, in float64, from which `LinearAutoencoder.fit_from_moments` is computed."""

    def __init__(self, *, patch: int):
        num_values = RGB * patch * patch
        self.patch = patch
        self.count = 0
        self.total = torch.zeros(num_values, dtype=torch.float64)
        self.outer = torch.zeros(num_values, num_values, dtype=torch.float64)

    def update(self, frames: Tensor) -> None:
        """Add the patches of frames (N, 3, H, W) in [-1, 1]. Raises: ClipMismatch, if patches do not cover them."""
        _require_divisible(frames, self.patch)
        patches_KP = rearrange(frames_to_patches(frames.detach().double(), self.patch), "n h w p -> (n h w) p")
        self.count += len(patches_KP)
        self.total += patches_KP.sum(dim=0).to(self.total.device)
        self.outer += einsum(patches_KP, patches_KP, "k p, k q -> p q").to(self.outer.device)


def frames_to_patches(frames: Tensor, patch: int) -> Tensor:
    """Return (N, H / patch, W / patch, 3 * patch * patch) of frames (N, 3, H, W)."""
    return rearrange(frames, "n c (h p) (w q) -> n h w (c p q)", p=patch, q=patch)


def _require_divisible(frames_NCHW: Tensor, step: int) -> None:
    height, width = frames_NCHW.shape[-2:]
    if height % step or width % step:
        way_out = f"use a resolution divisible by {step}"
        raise ClipMismatch(f"frames of {height}x{width} pixels cannot be cut into {step}x{step}; {way_out}")
