"""Who says what, and when."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.files import csv_rows
from lipsync_lightning.media.audio import encode_flac, read_audio, sound_stream
from lipsync_lightning.media.video import open_media
from lipsync_lightning.pipeline.sources import sound_file


@dataclass(frozen=True)
class Line:
    """What one person says."""

    face: str  # who, as `face=` of a call names them
    sound: Path
    start_s: float = 0.0  # when the sound begins, in seconds of the result; negative: some of it came before
    end_s: float = inf  # when it is cut off, if it lasts so long


@dataclass(frozen=True)
class Script:
    """All lines, and what is heard of them in the result."""

    lines: list[Line]
    heard: Path
    begins_s: float = 0.0  # when what is heard begins, in seconds of the result
    audio_track: int | str | None = None  # of what is heard

    def files(self, but: Path) -> dict[str, Path]:
        """Return the sounds, by what they are, but for those in a folder."""
        numbered = {f"sound {number}": line.sound for number, line in enumerate(self.lines, 1)}
        every = {"sound": self.heard} | {name: sound for name, sound in numbered.items() if sound != self.heard}
        return {name: path for name, path in every.items() if path.parent != but}


def read_script(path: Path) -> list[Line]:
    """Return the lines of a csv file: person,start,end,sound, times in seconds, `end` empty for the sound's own.

    Sounds lie where the file says, seen from its folder. Raises: BadConfig, for anything else, naming the row.
    """
    lines = []
    columns = {"person", "start", "end", "sound"}
    rows = csv_rows(path, "segments", {"person", "sound"}, columns)
    for number, row in enumerate(rows, 2):
        try:
            start_s, end_s = float(row.get("start") or 0), float(row.get("end") or inf)
            if not (isfinite(start_s) and end_s > start_s):
                raise ValueError(f"from {start_s} to {end_s}")
        except ValueError as error:
            raise BadConfig(f"segments={path}, row {number}: {error}; give start and end in seconds") from error
        lines.append(Line(row["person"], path.parent / row["sound"], start_s, end_s))
    return lines


def script_of(
    segments: Path | str | None,
    audio: Any,
    face: str,
    sound_offset_s: float,
    sample_rate_hz: int,
    audio_track: int | str | None,
    folder: Path,
) -> Script:
    """Return who says what; what is heard is written to `folder` where it is no file.

    Args: as of a call of `LipSyncPipeline`.
    Raises: BadConfig, if neither segments nor a sound are given; BadMedia, MissingAudio, if there is none to hear.
    """
    if segments is None and audio is None:
        raise BadConfig("give audio=<file>, or segments=<csv> of who says what")
    if segments is None:
        heard = sound_file(audio, sample_rate_hz, folder)
        return Script([Line(face, heard, sound_offset_s)], heard, sound_offset_s, audio_track)
    lines = [
        replace(line, start_s=line.start_s + sound_offset_s, end_s=line.end_s + sound_offset_s)
        for line in read_script(Path(segments))
    ]
    if audio is None:
        return Script(lines, write_mix(folder / "mix.flac", lines, audio_track))
    heard = sound_file(audio, sample_rate_hz, folder)
    with open_media(heard) as file:
        sound_stream(file, heard, audio_track)
    return Script(lines, heard, sound_offset_s, audio_track)


def write_mix(
    path: Path, script: Sequence[Line], audio_track: int | str | None = None, sample_rate_hz: int = 48000
) -> Path:
    """Write what a script's sounds make together, from the result's beginning, mono FLAC, and return the path."""
    placed = []
    for line in script:
        first = round(line.start_s * sample_rate_hz)
        sound = read_audio(line.sound, sample_rate_hz, audio_track)
        lasts = len(sound) if line.end_s == inf else round((line.end_s - line.start_s) * sample_rate_hz)
        placed.append((max(0, first), sound[max(0, -first) : max(0, lasts)]))
    heard = np.zeros(max(first + len(sound) for first, sound in placed), np.float32)
    for first, sound in placed:
        heard[first : first + len(sound)] += sound
    heard /= max(1.0, float(np.abs(heard).max(initial=0)))  # where voices add up
    path.write_bytes(encode_flac(heard, sample_rate_hz))
    return path
