"""`torch.compile`, block by block: a whole U-Net would compile for many minutes."""

import torch
from torch import nn

from lipsync_lightning.errors import BadConfig

_COMPILED = {"ClipResnet", "BasicTransformerBlock", "ResnetBlock2D"}  # names of classes, diffusers' and ours
_MOST_SHAPES = 64  # of one kind of block; torch gives up after 8, a U-Net has about 20


def compile_blocks(*networks: nn.Module, device: str) -> None:
    """Compile the blocks that networks are made of, each at its first use. Names of their weights stay.

    Args: device: where they will compute.
    Raises: BadConfig, where torch finds no compiler.
    """
    try:
        torch.compile(lambda ones: ones + 1, dynamic=False)(torch.ones(8, device=device))
    except Exception as error:  # each backend has its own
        reason = " ".join([line for line in str(error).splitlines() if line][:2]) or type(error).__name__
        raise BadConfig(f"compile=true needs a compiler for {device}: {reason}; compile=false works") from error
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_SHAPES)
    for network in networks:
        for block in network.modules():
            if type(block).__name__ in _COMPILED:
                block.compile()
