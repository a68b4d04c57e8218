"""Videos whose frames tell their number by their brightness, and whose face is where a json beside them says."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from lipsync_lightning.media.audio import encode_flac
from lipsync_lightning.media.mux import VideoWriter

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


# Brows and nose where a face of 32 pixels is cut out upright, unscaled and wholly inside the frame.
POINTS = np.array([[5.95, 7.0], [20.3, 7.0], [13.125, 14.0]]) + 14


def write_video(
    path: Path,
    num_frames: int,
    sound: np.ndarray | None,
    *,
    without_face: range = range(0),
    frames: Iterable[np.ndarray] | None = None,
    fps: float = FPS,
) -> Path:
    """Write a video and the json of its points, and return the video's path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flac = path.with_name(".sound.flac")
    if sound is not None:
        flac.write_bytes(encode_flac(sound, RATE_HZ))
    with VideoWriter(path, width=SIDE, height=SIDE, fps=fps, sound=flac if sound is not None else None) as writer:
        for frame in numbered_frames(num_frames) if frames is None else frames:
            writer.write(frame)
    flac.unlink(missing_ok=True)
    points = [None if index in without_face else POINTS.tolist() for index in range(num_frames)]
    path.with_suffix(".json").write_text(json.dumps({"points": points}))
    return path
