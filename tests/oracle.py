"""Weights and inputs rebuilt from their names, so that fixtures hold outputs only.

The rule is a SplitMix64 finaliser over (crc32(name), flat index): no random state, the same on every machine.
"""

from math import prod
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

_KEPT_AS_BUILT = ("pe", "mask", "positional_embedding")


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float64 values in [-1, 1) of the given shape, a pure function of `name` and position."""
    with np.errstate(over="ignore"):
        index = np.arange(prod(shape), dtype=np.uint64)
        z = (index + (np.uint64(crc32(name.encode())) << np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(11)).astype(np.float64) * 2.0 / 2.0**53 - 1.0).reshape(shape)


def fill(name: str, tensor: Tensor, gain: float = 1.0) -> Tensor:
    """The value that the rule gives to state-dict entry `name`, in the entry's own shape and dtype."""
    leaf = name.rsplit(".", 1)[-1]
    if not tensor.is_floating_point() or (tensor.ndim >= 2 and leaf in _KEPT_AS_BUILT):
        return tensor
    values = uniform(name, tuple(tensor.shape))
    if tensor.ndim >= 2:
        values = values * gain * np.sqrt(3.0 / prod(tensor.shape[1:]))
    elif leaf in ("weight", "running_var"):
        values = 1.0 + 0.2 * values
    else:
        values = 0.1 * values
    return torch.from_numpy(values.astype(np.float32)).to(tensor.dtype)


def fill_state_dict(state_dict: dict[str, Tensor], gain: float = 1.0, through_half: bool = False) -> dict[str, Tensor]:
    """Every entry rebuilt by the rule; `through_half` rounds filled values to float16 first, as some oracles did."""
    filled = {name: fill(name, tensor, gain) for name, tensor in state_dict.items()}
    if not through_half:
        return filled
    return {
        n: t.half().to(t.dtype) if t.is_floating_point() and t is not state_dict[n] else t for n, t in filled.items()
    }
