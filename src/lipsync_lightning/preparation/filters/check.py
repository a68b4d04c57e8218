"""First step: is this a talking video at all?"""

from dataclasses import dataclass
from math import log10

import numpy as np

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import LipSyncError
from lipsync_lightning.media.audio import read_audio
from lipsync_lightning.media.video import probe
from lipsync_lightning.preparation.filters import Rejected
from lipsync_lightning.preparation.sources import Source


@dataclass(frozen=True)
class CheckedVideo:
    """A video that can be decoded and has sound."""

    waveform: np.ndarray  # (N,), float32 mono at the clip's sample rate, starting with the source's first frame
    crop: tuple[slice, slice]  # rows and columns of an upright frame
    duration_s: float  # of the picture, as the file states it


@dataclass(frozen=True, kw_only=True)
class Check:
    """Rejects what cannot be decoded, lacks sound or picture, or is too short, too slow or too small to show lips."""

    min_seconds: float  # of sound and of picture
    min_fps: float  # of the file itself; at fewer, lips jump
    min_side: int  # pixels of the smaller side, of the crop where there is one
    min_dbfs: float  # root mean square of the whole sound; what lies below counts as silence

    def __call__(self, source: Source, clip: ClipSpec) -> CheckedVideo:
        """Return the video with its sound. Raises: Rejected; OSError, if a file is gone or cannot be opened at all."""
        for path in filter(None, (source.video, source.audio)):
            if not path.is_file():
                path.lstat()  # gone since it was listed?
                raise Rejected("check", f"{path} is no file (a link that leads nowhere, a pipe, a folder?)")
            with path.open("rb"):
                pass  # what may not be read is a failure of this run, not a fault of the video
        try:
            info = probe(source.video)
            if source.audio is None and not info.has_audio:
                raise Rejected("check", "no sound")
            waveform = read_audio(source.audio or source.video, clip.sample_rate_hz)
        except LipSyncError as error:
            raise Rejected("check", str(error)) from error
        rows, columns = _crop(source, info.width, info.height)
        side = min(len(range(*rows.indices(info.height))), len(range(*columns.indices(info.width))))
        stop_s = min(info.duration_s, source.stop_s or info.duration_s)
        shown_s = stop_s - source.start_s
        waveform = waveform[round(source.start_s * clip.sample_rate_hz) : round(stop_s * clip.sample_rate_hz)]
        heard_s = len(waveform) / clip.sample_rate_hz
        if side < self.min_side:
            what = "" if source.crop is None else " of the crop"
            raise Rejected("check", f"{side} pixels on the smaller side{what}, at least {self.min_side} needed")
        if info.fps < self.min_fps:
            raise Rejected("check", f"{float(info.fps):g} fps, at least {self.min_fps:g} needed")
        for seconds, what in ((shown_s, "picture"), (heard_s, "sound")):
            if round(seconds, 3) < self.min_seconds:
                raise Rejected("check", f"{seconds:.2f} s of {what}, at least {self.min_seconds:g} s needed")
        dbfs = 10 * log10(float(np.square(waveform, dtype=np.float64).mean()) + 1e-12)
        if dbfs < self.min_dbfs:
            raise Rejected("check", f"silence: {dbfs:.0f} dB of full scale, at least {self.min_dbfs:g} needed")
        return CheckedVideo(waveform, (rows, columns), shown_s)


def _crop(source: Source, width: int, height: int) -> tuple[slice, slice]:
    if source.crop is None:
        return slice(None), slice(None)
    left, top, crop_width, crop_height = source.crop
    scale = height / (source.crop_height or height)
    rows = slice(round(top * scale), min(height, round((top + crop_height) * scale)))
    return rows, slice(round(left * scale), min(width, round((left + crop_width) * scale)))
