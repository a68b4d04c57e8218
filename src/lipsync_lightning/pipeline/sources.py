"""What a call takes for a video and for a sound: files, or arrays."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.media.audio import encode_flac, read_audio
from lipsync_lightning.media.resampling import exact
from lipsync_lightning.media.video import TimedFrame, VideoInfo, probe, timed_frames, timed_frames_reversed


@dataclass(frozen=True)
class VideoFile:
    """Part of a video file."""

    path: Path
    start_s: float = 0.0
    stop_s: float | None = None

    def __str__(self) -> str:
        return str(self.path)

    @cached_property
    def info(self) -> VideoInfo:
        return probe(self.path)

    def until(self, end_s: Fraction) -> "VideoFile":
        return replace(self, stop_s=float(end_s))

    def sound(self, sample_rate_hz: int) -> np.ndarray:
        return read_audio(self.path, sample_rate_hz)

    def forwards(self) -> Iterator[TimedFrame]:
        return timed_frames(self.path, start_s=self.start_s, stop_s=self.stop_s)

    def backwards(self) -> Iterator[TimedFrame]:
        assert self.stop_s is not None
        return timed_frames_reversed(self.path, start_s=self.start_s, stop_s=self.stop_s)


@dataclass(frozen=True)
class VideoArray:
    """Frames in memory, (F, H, W, 3), uint8, at a constant rate."""

    frames: np.ndarray
    fps: float

    def __str__(self) -> str:
        return f"the given {len(self.frames)} frames"

    @cached_property
    def info(self) -> VideoInfo:
        num, height, width = self.frames.shape[:3]
        return VideoInfo(width, height, exact(self.fps), num / self.fps, has_audio=False)

    def until(self, end_s: Fraction) -> "VideoArray":
        return self

    def sound(self, sample_rate_hz: int) -> np.ndarray:
        return np.zeros(0, np.float32)

    def forwards(self) -> Iterator[TimedFrame]:
        for index, frame in enumerate(self.frames):
            yield TimedFrame(frame, index / exact(self.fps), 1 / exact(self.fps))

    def backwards(self) -> Iterator[TimedFrame]:
        return VideoArray(self.frames[::-1], self.fps).forwards()


def video_of(given: Any, fps: float, start_s: float, stop_s: float | None) -> VideoFile | VideoArray:
    """Return the source of a path, or of frames: uint8 (F, H, W, 3), floats in [0, 1] likewise or (F, 3, H, W), PIL.

    Raises: BadMedia, for anything else.
    """
    if isinstance(given, str | Path):
        return VideoFile(Path(given), start_s, stop_s)
    is_array = isinstance(given, torch.Tensor | np.ndarray)
    frames = torch.as_tensor(given if is_array else np.array([np.asarray(picture) for picture in given]))
    if frames.ndim == 4 and frames.shape[1] == 3 and frames.shape[3] != 3:
        frames = frames.permute(0, 2, 3, 1)
    if frames.is_floating_point():
        if not (frames.isfinite().all() and frames.min() >= 0 and frames.max() <= 1):
            raise BadMedia("frames that are no bytes must be finite and in [0, 1]; scale them")
        frames = (frames * 255).round().byte()
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != torch.uint8 or not len(frames):
        raise BadMedia(f"frames of shape {tuple(frames.shape)} {frames.dtype}: give (F, H, W, 3) bytes, or a path")
    first, last = first_frame(start_s, fps), None if stop_s is None else first_frame(stop_s, fps)
    if not len(frames[first:last]):
        raise BadMedia(f"no frame between {start_s} s and {stop_s} s of {len(frames) / fps:g} s; ask for another part")
    return VideoArray(frames.cpu().numpy()[first:last], fps)


def first_frame(start_s: float, fps: float | Fraction) -> int:
    """Return the number of the first frame that begins at a time, or later."""
    return max(0, ceil(exact(start_s) * Fraction(fps) - Fraction(1, 1000)))


def sound_file(given: Any, sample_rate_hz: int, folder: Path) -> Path:
    """Return the path of a sound, writing what is none to a file in `folder`: mono samples (N,) in [-1, 1].

    Raises: BadMedia, for anything else.
    """
    if isinstance(given, str | Path):
        return Path(given)
    waveform = np.asarray(given.cpu() if isinstance(given, torch.Tensor) else given, np.float32).squeeze()
    if waveform.ndim != 1 or not np.isfinite(waveform).all():
        raise BadMedia(f"sound of shape {waveform.shape}: give finite mono samples (N,) in [-1, 1], or a path")
    path = folder / "sound.flac"
    path.write_bytes(encode_flac(waveform, sample_rate_hz))
    return path
