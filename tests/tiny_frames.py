"""Frames that tell their number by their brightness, and sound that is loud while some of them are shown."""

import numpy as np

RATE_HZ = 16000
FPS = 25
SIDE = 64


def level(frame: int) -> int:
    """The brightness of a frame: successive frames differ by 3 levels."""
    return 20 + 3 * (frame % 70)


def numbered_frames(num_frames: int, side: int = SIDE) -> np.ndarray:
    return np.stack([np.full((side, side, 3), level(index), np.uint8) for index in range(num_frames)])


def number_of(face: np.ndarray) -> int:
    """Which frame of `numbered_frames` a decoded (H, W, 3) picture is."""
    return round((float(np.median(face)) - 20) / 3)


def sound_of(num_frames: float, loud: range = range(0)) -> np.ndarray:
    """Silence as long as `num_frames` frames, with a 1 kHz tone while the frames of `loud` are shown."""
    time_s = np.arange(round(num_frames * RATE_HZ / FPS)) / RATE_HZ
    shown = (time_s * FPS).astype(int)
    heard = np.isin(shown, np.array(loud, dtype=int))
    return (0.5 * heard * np.sin(2000 * np.pi * time_s)).astype(np.float32)
