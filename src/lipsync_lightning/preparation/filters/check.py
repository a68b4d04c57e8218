"""First step: is this a talking video at all?"""

from dataclasses import dataclass
from fractions import Fraction
from math import log10

import numpy as np

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import LipSyncError
from lipsync_lightning.media.audio import read_audio
from lipsync_lightning.media.video import probe
from lipsync_lightning.preparation.sources import Source
from lipsync_lightning.preparation.verdict import Rejected


@dataclass(frozen=True)
class CheckedVideo:
    """A video that can be decoded and has sound."""

    source: Source
    waveform: np.ndarray  # (N,), float32 mono at the clip's sample rate, starting with the source's first frame
    crop: tuple[slice, slice]  # rows and columns of an upright frame
    shown_s: float  # how long it is, by what its file says of itself


class Check:
    """Refuses what cannot be decoded, what has no sound or picture, and what is too short, too slow or too small to show lips."""

    name = "check"

    def __init__(self, *, min_seconds: float, min_fps: float, min_side: int, min_dbfs: float) -> None:
        """Args:
        min_seconds: of sound and picture.
        min_fps: frames per second of the file itself; at fewer, lips jump.
        min_side: pixels of the smaller side, of the crop where there is one.
        min_dbfs: root mean square of the whole sound; what lies below counts as silence.
        """
        self.min_seconds = min_seconds
        self.min_fps = min_fps
        self.min_side = min_side
        self.min_dbfs = min_dbfs

    @property
    def version(self) -> str:
        return f"1 min_seconds={self.min_seconds:g} min_fps={self.min_fps:g} min_side={self.min_side} min_dbfs={self.min_dbfs:g}"

    def __call__(self, source: Source, clip: ClipSpec) -> CheckedVideo | Rejected:
        """Return the video with its sound, or why it cannot be used. Raises: OSError, if a file is gone or cannot be opened at all."""
        for path in filter(None, (source.video, source.audio)):
            if not path.is_file():
                path.lstat()  # gone since it was listed?
                return self._rejected(f"{path} is no file (a link that leads nowhere, a pipe, a folder?)")
            with path.open("rb"):
                pass  # what may not be read is a failure of this run, not a fault of the video
        try:
            info = probe(source.video)
            if source.audio is None and not info.has_audio:
                return self._rejected("no sound")
            waveform = read_audio(source.audio or source.video, clip.sample_rate_hz)
        except LipSyncError as error:
            return self._rejected(str(error))
        rows, columns = _crop(source, info.width, info.height)
        side = min(len(range(*rows.indices(info.height))), len(range(*columns.indices(info.width))))
        stop_s = min(info.duration_s, source.stop_s or info.duration_s)
        waveform = waveform[round(source.start_s * clip.sample_rate_hz) : round(stop_s * clip.sample_rate_hz)]
        fault = self._fault(source, side, info.fps, stop_s - source.start_s, waveform, clip)
        return (
            self._rejected(fault) if fault else CheckedVideo(source, waveform, (rows, columns), stop_s - source.start_s)
        )

    def _fault(
        self, source: Source, side: int, fps: Fraction, shown_s: float, waveform: np.ndarray, clip: ClipSpec
    ) -> str | None:
        heard_s = len(waveform) / clip.sample_rate_hz
        if side < self.min_side:
            what = "" if source.crop is None else " of the crop"
            return f"{side} pixels on the smaller side{what}, at least {self.min_side} needed"
        if fps < self.min_fps:
            return f"{float(fps):g} fps, at least {self.min_fps:g} needed"
        if shown_s < self.min_seconds:
            return f"{shown_s:.2f} s of picture, at least {self.min_seconds:g} s needed"
        if heard_s < self.min_seconds:
            return f"{heard_s:.2f} s of sound, at least {self.min_seconds:g} s needed"
        loudness = 10 * log10(float(np.square(waveform, dtype=np.float64).mean()) + 1e-12)
        return (
            f"silence: {loudness:.0f} dB of full scale, at least {self.min_dbfs:g} needed"
            if loudness < self.min_dbfs
            else None
        )

    def _rejected(self, reason: str) -> Rejected:
        return Rejected(step=self.name, reason=reason)


def _crop(source: Source, width: int, height: int) -> tuple[slice, slice]:
    if source.crop is None:
        return slice(None), slice(None)
    left, top, crop_width, crop_height = source.crop
    scale = height / (source.crop_height or height)
    rows = slice(round(top * scale), min(height, round((top + crop_height) * scale)))
    return rows, slice(round(left * scale), min(width, round((left + crop_width) * scale)))
