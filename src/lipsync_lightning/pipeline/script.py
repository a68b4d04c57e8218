"""Who says what, and when."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.media.audio import encode_flac, read_audio
from lipsync_lightning.pipeline.sources import sound_file

_COLUMNS = ["person", "start", "end", "sound"]


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

    @property
    def files(self) -> dict[str, Path]:
        """The sounds, by what they are."""
        numbered = {f"sound {number}": line.sound for number, line in enumerate(self.lines, 1)}
        return {"sound": self.heard} | {name: sound for name, sound in numbered.items() if sound != self.heard}


def read_script(path: Path) -> list[Line]:
    """Return the lines of a csv file: person,start,end,sound, times in seconds, `end` empty for the sound's own.

    Sounds lie where the file says, seen from its folder. Raises: BadConfig, for anything else, naming the row.
    """
    return list(_lines(path))


def script_of(
    segments: Path | str | None, audio: Any, face: str, sound_offset_s: float, sample_rate_hz: int, folder: Path
) -> Script:
    """Return who says what; what is heard is written to `folder` where it is no file.

    Args: as of a call of `LipSyncPipeline`. Raises: BadConfig, if neither segments nor a sound are given.
    """
    if segments is None and audio is None:
        raise BadConfig("give audio=<file>, or segments=<csv> of who says what")
    if segments is None:
        heard = sound_file(audio, sample_rate_hz, folder)
        return Script([Line(face, heard, sound_offset_s)], heard, sound_offset_s)
    lines = read_script(Path(segments))
    if audio is None:
        return Script(lines, write_mix(folder / "mix.flac", lines))
    return Script(lines, sound_file(audio, sample_rate_hz, folder), sound_offset_s)


def _lines(path: Path) -> Iterator[Line]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadConfig(f"segments={path} cannot be read ({error}); give a csv file: {','.join(_COLUMNS)}") from error
    if not rows or set(rows[0]) != set(_COLUMNS):
        found = ",".join(rows[0]) if rows else "no row"
        raise BadConfig(f"segments={path} has {found}; its first row must be {','.join(_COLUMNS)}, and one follow")
    for number, row in enumerate(rows, 2):
        try:
            start_s, end_s = float(row["start"] or 0), float(row["end"] or inf)
            if not (isfinite(start_s) and end_s > start_s):
                raise ValueError(f"from {start_s} to {end_s}")
        except (TypeError, ValueError) as error:
            raise BadConfig(f"segments={path}, row {number}: {error}; give start and end in seconds") from error
        if not row["person"] or not row["sound"]:
            raise BadConfig(f"segments={path}, row {number}: person and sound are needed")
        yield Line(row["person"], path.parent / row["sound"], start_s, end_s)


def write_mix(path: Path, script: Sequence[Line], sample_rate_hz: int = 48000) -> Path:
    """Write what a script's sounds make together, from the result's beginning, mono FLAC, and return the path."""
    heard = np.zeros(0, np.float32)
    for line in script:
        first, stop = round(line.start_s * sample_rate_hz), line.end_s * sample_rate_hz
        sound = read_audio(line.sound, sample_rate_hz)[max(0, -first) :]
        first = max(0, first)
        sound = sound[: max(0, round(stop - first)) if isfinite(stop) else None]
        heard = np.pad(heard, (0, max(0, first + len(sound) - len(heard))))
        heard[first : first + len(sound)] += sound
    path.write_bytes(encode_flac(heard, sample_rate_hz))
    return path
