"""Weights into networks, strictly: every name and shape fits, or an error says which do not."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from lipsync_lightning.errors import WrongWeights
from lipsync_lightning.models.recognition import cause_of_mismatch

Network = TypeVar("Network", bound=nn.Module)

_WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before every name
_NUM_LISTED = 10
_HALVES = (torch.float16, torch.bfloat16)
_INTEGERS = (torch.int64, torch.int32)  # counters of batch norms


def filled(build: Callable[[], Network], weights: Mapping[str, Tensor]) -> Network:
    """Return the network that `build` makes, holding exactly these weights (shared, not copied), in eval mode, on their device.

    Nothing is initialised first, so a network of a billion parameters takes no longer than its weights do to read.

    Args: weights: under the network's own names, already known to fit.
    """
    with torch.device("meta"):
        network = build()
    network.load_state_dict(dict(weights), assign=True)
    devices = {tensor.device for tensor in weights.values()}
    if devices == {torch.device("meta")}:
        return network.eval()
    return network.to(next(iter(devices))).eval()  # constants that are not weights were made on the CPU


def load_matching(
    network: nn.Module, state_dict: Mapping[str, Tensor], allowed_missing: tuple[str, ...] = ("motion_modules.",)
) -> list[str]:
    """Copy the weights into a network and return the names it keeps as they were.

    Args:
        state_dict: weights under the network's own names.
        allowed_missing: weights whose name contains one of these may be absent: by default temporal modules, as when stage 2 starts from
            stage 1. Everything else has to be there, in the right shape, and nothing more.
    Raises: WrongWeights, if names or shapes do not fit.
    """
    expected = network.state_dict()
    kept = [key for key in expected if key not in state_dict and any(part in key for part in allowed_missing)]
    require_match(
        {key: tensor for key, tensor in expected.items() if key not in kept}, state_dict, type(network).__name__
    )
    network.load_state_dict(dict(state_dict), strict=False)
    return kept


def require_match(
    expected: Mapping[str, Tensor], given: Mapping[str, Tensor], network: str, dropped: Iterable[str] = ()
) -> None:
    """Raises: WrongWeights, with the likely cause, listing what is missing, unexpected or misshapen, and what was left out on purpose."""
    missing = [key for key in expected if key not in given]
    unexpected = [key for key in given if key not in expected]
    misshapen = [
        f"{key} {_described(given[key])} instead of {_described(tensor)}"
        for key, tensor in expected.items()
        if key in given and _described(given[key]) != _described(tensor)
    ]
    if not (missing or unexpected or misshapen):
        return
    parts = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    listing = ";\n".join(f"  {len(keys)} {what}: {_shortened(keys)}" for what, keys in parts.items() if keys)
    left_out = list(dropped)
    if left_out:
        listing += f";\n  {len(left_out)} left out on purpose, such as {left_out[0]}"
    raise WrongWeights(
        f"these weights do not fit {network}: {cause_of_mismatch(expected, given)} "
        f"({len(expected)} entries expected, {len(given)} given);\n{listing};\n"
        "give the weights that belong to this configuration, or the configuration that belongs to these weights"
    )


def plain_weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without the prefixes that wrappers gave to all of them, half-precision ones as float32 (the value is the same).

    Raises: WrongWeights, if only some names carry such a prefix, if a value is no dense tensor of a type that networks are trained in, is
        not finite, or if double precision and others are mixed.
    """
    if not isinstance(state_dict, Mapping) or not all(isinstance(key, str) for key in state_dict):
        raise WrongWeights(
            f"a state dict is a mapping of names to tensors, not {type(state_dict).__name__}; give that of the checkpoint"
        )
    problems = [f"{key} {problem}" for key, value in state_dict.items() if (problem := _problem_of(value))]
    if problems:
        raise WrongWeights(
            f"these are not weights that can be used: {_shortened(problems)}; get the file again, or another one"
        )
    weights = _without_prefixes(dict(state_dict))
    doubles = [key for key, tensor in weights.items() if tensor.dtype == torch.float64]
    if doubles and any(tensor.is_floating_point() and tensor.dtype != torch.float64 for tensor in weights.values()):
        raise WrongWeights(f"{_shortened(doubles)} are float64 and others are not; save all weights in one precision")
    return {key: tensor.float() if tensor.dtype in _HALVES else tensor for key, tensor in weights.items()}


def _problem_of(value: object) -> str | None:
    """What is wrong with one entry, or None."""
    if not isinstance(value, Tensor):
        return f"is a {type(value).__name__}"
    if value.layout != torch.strided:
        return f"is stored as {value.layout}"
    if not value.is_floating_point():
        return None if value.dtype in _INTEGERS else f"is {value.dtype}"
    if value.dtype not in (*_HALVES, torch.float32, torch.float64):
        return f"is {value.dtype}, which keeps too little of a weight"
    return None if value.is_meta or bool(value.isfinite().all()) else "has values that are not finite"


def _without_prefixes(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off what wrappers put before every name, one after another."""
    while True:
        for prefix in _WRAPPERS:
            wrapped = [key for key in weights if key.startswith(prefix)]
            if 0 < len(wrapped) < len(weights):
                raise WrongWeights(
                    f"{len(wrapped)} of {len(weights)} names start with {prefix!r} and the others do not, as if two checkpoints had been "
                    "mixed; give a file that one training run wrote"
                )
            if wrapped:
                weights = {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
                break
        else:
            return weights


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)}{'' if tensor.is_floating_point() else ' of whole numbers'}"


def _shortened(keys: list[str]) -> str:
    return ", ".join(keys[:_NUM_LISTED]) + (", ..." if len(keys) > _NUM_LISTED else "")
