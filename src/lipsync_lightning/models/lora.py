"""LoRA (arXiv 2106.09685): low-rank matrices beside frozen weights learn, and are merged into them afterwards."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.models.weights_io import filled

BASE = "base"  # in a run's folder: the frozen network that its LoRA stands beside; its checkpoints hold LoRA alone
SCALE = "lora_scale"  # in a state dict: how often the product of the matrices is added


def add_lora(network: nn.Module, *, rank: int, alpha: float, targets: Sequence[str], inside: Sequence[str]) -> None:
    """Let alpha / rank times a product of two matrices learn beside linear layers, and freeze everything else.

    At first the product is zero.

    Args:
        rank: the inner dimension of the product.
        targets: last names of the layers, such as `to_q` or `to_out.0`.
        inside: parts of parameter names; layers that contain none of them get nothing. [""] for all.
    Raises: BadConfig, for a target that is no linear layer inside these parts, or where peft is missing.
    """
    if not (isinstance(rank, int) and rank >= 1) or isinstance(targets, str):
        raise BadConfig(
            f"module.lora.rank={rank}, targets={targets}: give a whole number, 1 or more, and a list of names"
        )
    try:
        from peft import LoraConfig, inject_adapter_in_model  # optional, and a second to import
    except ImportError as error:
        raise BadConfig("module.lora needs peft; get it with: pip install 'lipsync-lightning[lora]'") from error
    linear = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    offered = [name for name in linear if any(part in f"{name}.weight" for part in inside)]
    chosen = {target: [name for name in offered if f".{name}".endswith(f".{target}")] for target in targets}
    for target, names in chosen.items():
        if not names:
            there = sorted({re.sub(r".*\.(?=[a-z])", "", name) for name in offered})
            parts = f"module.trainable={list(inside)}"
            raise BadConfig(f"module.lora.targets: no linear layer inside {parts} is a {target!r}; there are {there}")
    layers = [name for names in chosen.values() for name in names]
    try:
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers)  # pyright: ignore[reportArgumentType]
        inject_adapter_in_model(config, network)
    except ValueError as error:
        raise BadConfig(f"module.lora: {error}") from error
    network.register_buffer(SCALE, torch.tensor(alpha / rank))


def merged(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights, in float32, of a plain network that computes what the one of this state dict does."""
    plain = {name.replace(".base_layer.", "."): own.float() for name, own in weights.items() if "lora_" not in name}
    for name, down in weights.items():
        layer, is_down, rest = name.partition(".lora_A.")
        if is_down:
            added = weights[f"{layer}.lora_B.{rest}"].float() @ down.float()
            plain[f"{layer}.weight"] = plain[f"{layer}.weight"] + weights[SCALE] * added
    return plain


def plain_network(network: ModelMixin) -> ModelMixin:
    """Return the network that can be saved and loaded anywhere: without LoRA, and not in pieces.

    All processes have to call this where the network lies in pieces. One that is plain comes back as it is.
    """
    weights = network.state_dict()
    if SCALE not in weights and not any(isinstance(own, DTensor) for own in weights.values()):
        return network
    whole = {name: _whole(own).cpu() for name, own in weights.items()}
    return filled(lambda: type(network).from_config(network.config), merged(whole))  # pyright: ignore[reportAttributeAccessIssue]


def _whole(own: Tensor) -> Tensor:
    """Return a tensor that lay in pieces; after training Lightning has moved these to the CPU."""
    if not isinstance(own, DTensor):
        return own
    back: Any = own.to(own.device_mesh.device_type)
    return back.full_tensor()
