"""Ways to make inference faster or smaller: compiling and offloading change nothing, the others the picture."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import Tensor, nn

from lipsync_lightning.errors import BadConfig, WrongWeights
from lipsync_lightning.models.unet import LipSyncUNet
from lipsync_lightning.models.weights_io import pretrained

# DDIM (arXiv 2010.02502), and DPM-Solver++ (2211.01095) of second order at evenly spaced logarithms of the
# signal-to-noise ratio, as in 2206.00927, section 4.1: on Gaussian data a tenth of DDIM's error in 10 steps.
SOLVERS: dict[str, Callable[..., Any]] = {
    "ddim": DDIMScheduler.from_config,
    "dpm": partial(DPMSolverMultistepScheduler.from_config, use_lu_lambdas=True),
}


def solver_of(scheduler: Any, name: str) -> Any:
    """Return the solver of this name for a scheduler's noise and prediction type. Raises: BadConfig, for another."""
    if name not in SOLVERS:
        raise BadConfig(f"solver={name!r} is none of {sorted(SOLVERS)}; choose one of them")
    return SOLVERS[name](scheduler.config)


class _Kept(ModelHook):
    """A block that works at the first of every `period` calls, and at the others says the same again."""

    def __init__(self, period: int) -> None:
        super().__init__()
        self.period, self.num_calls, self.kept = period, 0, None

    def new_forward(self, module: nn.Module, *inputs: Any, **named: Any) -> Any:
        if self.num_calls % self.period == 0:
            self.kept = self.fn_ref.original_forward(*inputs, **named)  # pyright: ignore[reportOptionalCall]
        self.num_calls += 1
        return self.kept


@contextmanager
def at_work(network: Any, device: torch.device | None, deep_features_every: int) -> Iterator[None]:
    """Within, a network computes for one batch of windows; behind, it is as it was and where it was.

    Args:
        device: where it works, if not where it is: U-Net and autoencoder take turns there.
        deep_features_every: calls of a U-Net, which are steps, for which all but its finest level computes once.
    Source: coarse features hardly change between steps (DeepCache, arXiv 2312.00858). diffusers' own caches are made
        for transformers; its hooks serve here, block by block, so that the U-Net itself knows nothing of it.
    """
    home, deep, is_unet = network.device, [], isinstance(network, LipSyncUNet)
    if deep_features_every > 1 and is_unet:
        blocks = [*network.down_blocks[1:], network.mid_block, *network.up_blocks[:-1]]
        deep = [HookRegistry.check_if_exists_or_initialize(block) for block in blocks]
    if device is not None:
        network.to(device)
    for registry in deep:
        registry.register_hook(_Kept(deep_features_every), "deep_features")
    try:
        yield
    finally:
        for registry in deep:
            registry.remove_hook("deep_features", recurse=False)
        if device is not None:
            network.to(home)


class TinyDecoder(AutoencoderTiny):
    """A small network that was trained to do what the VAE's decoder does, such as TAESD; a frame at a time."""

    use_slicing = True

    def decode(self, latents: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return frames (N, 3, H, W), about in [-1, 1], of scaled latents (N, C, h, w)."""
        return super().decode(latents).sample  # pyright: ignore[reportAttributeAccessIssue]


def tiny_decoder(folder: str, autoencoder: Any) -> TinyDecoder:
    """Return the decoder of a folder that holds an `AutoencoderTiny`.

    Raises: MissingWeights, if it holds none; WrongWeights, if it is another network, or for other latents.
    """
    network: Any = pretrained(
        network=TinyDecoder, path=folder, get_with="decoder=<folder of diffusers' AutoencoderTiny>"
    )
    found = network.config["latent_channels"], 2 ** (len(network.config["num_decoder_blocks"]) - 1)
    wanted = autoencoder.latent_channels, autoencoder.downscale
    if found != wanted:
        shape = "latents of {} channels, one for {} pixels a side".format
        raise WrongWeights(f"decoder={folder} reads {shape(*found)}, not {shape(*wanted)}; give one for this model")
    return network
