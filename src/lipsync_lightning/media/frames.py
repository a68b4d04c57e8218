"""Frames as files have them (uint8) and as networks see them (float in [-1, 1]): the only conversions."""

import numpy as np
import torch
from torch import Tensor


def to_float(frames: Tensor | np.ndarray) -> Tensor:
    """Return uint8 frames as float32 in [-1, 1], in the layout and on the device they had."""
    levels = torch.from_numpy(frames) if isinstance(frames, np.ndarray) else frames
    # In place, for on a CPU a batch's worth of fresh memory costs more than the arithmetic.
    return levels.to(torch.float32, copy=True).div_(127.5).sub_(1)


def to_uint8(frames: Tensor) -> Tensor:
    """Return frames in [-1, 1] as the nearest of 256 levels, uint8, in the layout and on the device they had."""
    return (frames.float() * 127.5 + 127.5).round().clamp(0, 255).byte()
