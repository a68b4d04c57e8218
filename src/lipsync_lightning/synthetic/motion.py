"""How a head moves while its owner talks: nothing here knows what is said."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BLINK = (0.5, 1.0, 0.9, 0.4)  # lid position over the frames of one blink


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where a head is in its picture."""

    x: float = 0.0  # shift to the right, as a share of the picture's width
    y: float = 0.0  # shift down
    roll_degrees: float = 0.0  # clockwise
    scale: float = 1.0
    brow_raise: float = 0.0  # canvas units upwards


def head_motion(num_frames: int, fps: int, seed: int | Sequence[int]) -> list[Pose]:
    """Return a slowly moving head: shifts up to 3.5 %, roll up to 6 degrees, scale up to 4 %, brows up to 2 units."""
    rng = np.random.default_rng(seed)
    x, y, roll, scale, brow = (_sway(num_frames, fps, rng) for _ in range(5))
    return [
        Pose(x=0.035 * x[i], y=0.03 * y[i], roll_degrees=6 * roll[i], scale=1 + 0.04 * scale[i], brow_raise=2 * brow[i])
        for i in range(num_frames)
    ]


def blinks(num_frames: int, fps: int, seed: int | Sequence[int]) -> NDArray[np.float64]:
    """Return how far the lids are shut, (T,) in [0, 1]: a blink every 1.5 to 5 seconds."""
    rng = np.random.default_rng(seed)
    shut = np.zeros(num_frames + len(_BLINK))
    frame = int(rng.uniform(0.2, 3) * fps)
    while frame < num_frames:
        shut[frame : frame + len(_BLINK)] = _BLINK
        frame += int(rng.uniform(1.5, 5) * fps)
    return shut[:num_frames]


def _sway(num_frames: int, fps: int, rng: np.random.Generator) -> list[float]:
    """Return a smooth track in [-1, 1]: three slow sines whose amplitudes sum to one."""
    times = np.arange(num_frames) / fps
    amplitudes = rng.uniform(0.3, 1, 3)
    amplitudes /= amplitudes.sum()
    rates_hz = rng.uniform((0.05, 0.15, 0.3), (0.15, 0.3, 0.6))
    phases = rng.uniform(0, 2 * np.pi, 3)
    return (amplitudes[:, None] * np.sin(2 * np.pi * rates_hz[:, None] * times + phases[:, None])).sum(0).tolist()
