"""First step: is this a talking video at all?"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import LipSyncError
from lipsync_lightning.media.audio import read_audio
from lipsync_lightning.media.video import VideoInfo, probe


@dataclass(frozen=True)
class Rejected:
    """Why a source, or a stretch of it, did not become a clip."""

    reason: str


@dataclass(frozen=True)
class CheckedVideo:
    """A video that can be decoded and has sound."""

    path: Path
    info: VideoInfo
    waveform: np.ndarray  # (N,), float32 mono at the clip's sample rate, starting with the picture


def check(path: Path, clip: ClipSpec, min_seconds: float) -> CheckedVideo | Rejected:
    """Return the video with its sound, or why it cannot be used."""
    try:
        info = probe(path)
        if not info.has_audio:
            return Rejected("no sound")
        waveform = read_audio(path, clip.sample_rate_hz)
    except LipSyncError as error:
        return Rejected(str(error))
    seconds = len(waveform) / clip.sample_rate_hz
    if seconds < min_seconds:
        return Rejected(f"{seconds:.2f} s of sound, at least {min_seconds:g} s needed")
    return CheckedVideo(path, info, waveform)
