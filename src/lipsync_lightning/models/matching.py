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
    require_match({key: tensor for key, tensor in expected.items() if key not in kept}, state_dict, type(network).__name__)
    network.load_state_dict(dict(state_dict), strict=False)
    return kept


def require_match(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], network: str, dropped: Iterable[str] = ()) -> None:
    """Raises: WrongWeights, with the likely cause, listing what is missing, unexpected or misshapen, and what was left out on purpose."""
    missing = [key for key in expected if key not in given]
    unexpected = [key for key in given if key not in expected]
    misshapen = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in given and given[key].shape != tensor.shape
    ]
    if not (missing or unexpected or misshapen):
        return
    parts = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen, "left out on purpose": list(dropped)}
    listing = "\n".join(f"  {len(keys)} {what}: {_shortened(keys)}" for what, keys in parts.items() if keys)
    raise WrongWeights(
        f"these weights do not fit {network}: {cause_of_mismatch(expected, given)} "
        f"({len(expected)} entries expected, {len(given)} given)\n{listing}\n"
        "give the weights that belong to this configuration, or the configuration that belongs to these weights"
    )


def plain_weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without the prefix that a wrapper gave to all of them, half-precision ones as float32 (the value is the same).

    Raises: WrongWeights, if only some names carry such a prefix, or a value is no tensor.
    """
    no_tensors = [key for key, value in state_dict.items() if not isinstance(value, Tensor)]
    if no_tensors:
        raise WrongWeights(f"this is no state dict: {_shortened(no_tensors)} hold no tensors; give the mapping of names to tensors")
    for prefix in _WRAPPERS:
        wrapped = [key for key in state_dict if key.startswith(prefix)]
        if 0 < len(wrapped) < len(state_dict):
            raise WrongWeights(
                f"{len(wrapped)} of {len(state_dict)} names start with {prefix!r} and the others do not, as if two checkpoints had been "
                "mixed; give a file that one training run wrote"
            )
        state_dict = {key.removeprefix(prefix): tensor for key, tensor in state_dict.items()}
    return {key: _at_least_float32(tensor) for key, tensor in state_dict.items()}


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() < torch.float32.itemsize else tensor


def _shortened(keys: list[str]) -> str:
    return ", ".join(keys[:_NUM_LISTED]) + (", ..." if len(keys) > _NUM_LISTED else "")
