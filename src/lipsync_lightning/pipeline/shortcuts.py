"""Ways to make inference faster or smaller: `visiting` and `compile_blocks` change nothing, the others the picture."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn

from lipsync_lightning.errors import BadConfig, MissingWeights, WrongWeights
from lipsync_lightning.models.unet import LipSyncUNet

# DDIM (arXiv 2010.02502), DPM-Solver++ (2211.01095), UniPC (2302.04867): the latter two need fewer steps.
SOLVERS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "dpm": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}
_COMPILED = {"ClipResnet", "BasicTransformerBlock", "ResnetBlock2D"}  # names of classes, diffusers' and ours
_MOST_SHAPES = 64  # of one kind of block; torch gives up after 8, a U-Net has about 20


def solver_of(scheduler: SchedulerMixin, name: str) -> SchedulerMixin:
    """Return the solver of this name for a scheduler's noise and prediction type. Raises: BadConfig, for another."""
    if name not in SOLVERS:
        raise BadConfig(f"solver={name!r} is none of {sorted(SOLVERS)}; choose one of them")
    return SOLVERS[name].from_config(scheduler.config)


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
def reused_deep_features(unet: LipSyncUNet, period: int) -> Iterator[None]:
    """Within, all but the U-Net's finest level works only at every `period`-th call, which is a step; 1 is exact.

    Coarse features hardly change between steps (DeepCache, arXiv 2312.00858). diffusers' own caches are made for
    transformers; its hooks serve here, block by block, so that the U-Net itself knows nothing of it.
    """
    deep: list[Any] = [*unet.down_blocks[1:], unet.mid_block, *unet.up_blocks[:-1]] if period > 1 else []
    registries = [HookRegistry.check_if_exists_or_initialize(block) for block in deep]
    for registry in registries:
        registry.register_hook(_Kept(period), "deep_features")
    try:
        yield
    finally:
        for registry in registries:
            registry.remove_hook("deep_features", recurse=False)


class TinyDecoder(AutoencoderTiny):
    """A small network that was trained to do what the VAE's decoder does, such as TAESD."""

    def decode(self, latents: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return frames (N, 3, H, W), about in [-1, 1], of scaled latents (N, C, h, w)."""
        return torch.cat([super(TinyDecoder, self).decode(piece).sample for piece in latents.split(16)])  # pyright: ignore


def tiny_decoder(folder: str, autoencoder: Any) -> TinyDecoder:
    """Return the decoder of a folder that holds an `AutoencoderTiny`.

    Raises: MissingWeights; WrongWeights, if it is for other latents than the autoencoder's.
    """
    if not (Path(folder) / "config.json").is_file():
        raise MissingWeights(f"decoder={folder} holds no config.json; give a folder of diffusers' AutoencoderTiny")
    network = TinyDecoder.from_pretrained(folder, low_cpu_mem_usage=False).eval()
    found = network.config["latent_channels"], 2 ** (len(network.config["num_decoder_blocks"]) - 1)
    wanted = autoencoder.latent_channels, autoencoder.downscale
    if found != wanted:
        shape = "latents of {} channels and {} pixels a side".format
        raise WrongWeights(f"decoder={folder} reads {shape(*found)}, not {shape(*wanted)}; give one for this model")
    return network


@contextmanager
def visiting(network: Any, device: torch.device) -> Iterator[None]:
    """Within, the network is on the device; behind, it is where it was: the device holds one network at a time."""
    home = network.device
    network.to(device)
    try:
        yield
    finally:
        network.to(home)


def compile_blocks(network: nn.Module, device: torch.device) -> None:
    """Compile the blocks that a network is made of, each at its first use; a whole U-Net would take many minutes.

    Raises: BadConfig, where torch finds no compiler.
    """
    try:
        torch.compile(lambda ones: ones + 1, dynamic=False)(torch.ones(8, device=device))
    except Exception as error:  # each backend has its own
        reason = next(filter(None, str(error).splitlines()), type(error).__name__)
        raise BadConfig(f"compile=true needs a compiler for {device.type}: {reason}; compile=false works") from error
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_SHAPES)
    for block in network.modules():
        if type(block).__name__ in _COMPILED:
            block.compile()
