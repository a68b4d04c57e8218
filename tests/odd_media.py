"""A folder of files as people really have them: broken, odd, or just unusual, each with the verdict it deserves."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np

from lipsync_lightning.evaluation.sync import SyncScore
from lipsync_lightning.preparation.ledger import FAILED, KEPT, REJECTED
from tiny_media import POINTS, RATE_HZ, SIDE

FACE = POINTS.tolist()

FPS = 25
FRAMES = 45
MIN_FRAMES = 30  # 1.2 s, the shortest clip of the recipe that these files are meant for
DARK, BRIGHT = 100, 112  # of a frame in which nobody, or somebody, speaks: too near each other to look like a cut


def talking(num_frames: int = FRAMES, seed: int = 0) -> np.ndarray:
    """Return in which frames somebody speaks, (T,), bool."""
    return np.random.default_rng(seed).random(num_frames) < 0.5


def pictures(speaks: np.ndarray, width: int = SIDE, height: int = SIDE, offset: int = 0) -> Iterator[np.ndarray]:
    for each in speaks:
        yield np.full((height, width, 3), (BRIGHT if each else DARK) + offset, np.uint8)


def speech(speaks: np.ndarray, rate_hz: int = RATE_HZ, late_s: float = 0.0) -> np.ndarray:
    """Return the sound of those frames, (N,), heard `late_s` seconds after it is seen."""
    time_s = np.arange(round(len(speaks) * rate_hz / FPS)) / rate_hz
    frame = np.floor((time_s - late_s) * FPS).astype(int)
    loud = speaks[frame.clip(0, len(speaks) - 1)] & (frame >= 0) & (frame < len(speaks))
    return (0.4 * loud * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)


class BrightnessScorer:
    """Measures sync of these videos, in which who speaks is bright: where brightness and loudness agree best."""

    version = "brightness"
    fps = FPS
    sample_rate_hz = RATE_HZ

    def __call__(self, faces: np.ndarray, waveform: np.ndarray) -> SyncScore:
        bright = faces.mean(axis=(1, 2, 3)) - faces.mean()
        loud = np.abs(waveform[: len(bright) * 640]).reshape(len(bright), -1).mean(axis=1)
        shifts = range(-15, 16)
        agreement = np.array([self._agreement(bright, loud - loud.mean(), shift) for shift in shifts])
        best = int(agreement.argmax())
        return SyncScore(
            offset=-shifts[best], distance=1 - agreement[best], confidence=10 * (agreement[best] - np.median(agreement))
        )

    def _agreement(self, bright: np.ndarray, loud: np.ndarray, late: int) -> float:
        """How well the sound fits, if it is heard `late` frames after it is seen."""
        seen, heard = (bright[: len(bright) - late], loud[late:]) if late >= 0 else (bright[-late:], loud[:late])
        return float((seen * heard).sum() / np.sqrt((seen**2).sum() * (heard**2).sum() + 1e-9))


def write(
    path: Path,
    frames: Iterator[np.ndarray] | Sequence[np.ndarray],
    sound: np.ndarray | None,
    *,
    fps: int = FPS,
    rate_hz: int = RATE_HZ,
    layout: str = "mono",
    codec: str = "libx264",
    times: Callable[[int], int] = lambda index: index,
    rotation: int | None = None,
    points: Any = FACE,
) -> Path:
    """Write a video of (N,) or (channels, N) sound; beside it its points, those of every frame or a whole sidecar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="matroska" if path.suffix == ".mkv" else "mp4") as container:
        frames = iter(frames)
        first = next(frames)
        stream: Any = container.add_stream(codec, rate=fps)
        stream.width, stream.height = first.shape[1], first.shape[0]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        track: Any = None
        if sound is not None:
            track = container.add_stream("aac", rate=rate_hz)
            track.codec_context.layout = layout
        for index, picture in enumerate(chain([first], frames)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(
                format=stream.pix_fmt
            )
            frame.pts, frame.time_base = times(index), Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            _write_sound(container, track, np.atleast_2d(sound), rate_hz, layout)
    sidecar = points if isinstance(points, dict) else {"points": [points] * 400}
    path.with_suffix(".json").write_text(json.dumps(sidecar))
    return path


def _write_sound(container: Any, track: Any, sound: np.ndarray, rate_hz: int, layout: str) -> None:
    size = track.codec_context.frame_size or 1024
    for start in range(0, sound.shape[1], size):
        part = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(sound[:, start : start + size]), format="fltp", layout=layout
        )
        part.sample_rate, part.pts, part.time_base = rate_hz, start, Fraction(1, rate_hz)
        container.mux(track.encode(part))
    container.mux(track.encode(None))


@dataclass(frozen=True)
class Odd:
    """One odd file and what is to become of it."""

    name: str
    make: Callable[[Path], Any]
    verdict: str
    step: str | None = None  # that rejects
    reason: str = ""  # a part of it
    num_clips: int = 1  # if it is kept

    @property
    def source(self) -> str:
        """Its name as a source: a backslash is doubled, so that no escaped name can be another's."""
        return self.name.replace("\\", "\\\\")


def good(path: Path, seed: int = 0, **settings: Any) -> Path:
    speaks = talking(seed=seed)
    return write(path, pictures(speaks), speech(speaks), **settings)


def _cut(path: Path, share: float) -> None:
    whole = good(path, seed=1).read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])


def _loop(path: Path) -> None:
    other = path.with_name("loop back.mp4")
    path.symlink_to(other.name)
    other.symlink_to(path.name)


def _variable(path: Path) -> None:
    """Frames that stay for 20 to 60 ms: shown at 50 ticks a second."""
    speaks = talking(seed=2)
    shown_at = np.cumsum([0, *np.random.default_rng(0).integers(1, 4, size=len(speaks) - 1)])
    at_tick = np.searchsorted(shown_at, np.arange(0, shown_at[-1] + 2, 2), side="right") - 1
    write(path, pictures(speaks), speech(speaks[at_tick]), fps=50, times=lambda index: int(shown_at[index]))


def _two_people(path: Path) -> None:
    speaks = talking(seed=3)
    people = [[FACE] * FRAMES, [np.add(POINTS, (SIDE, 0)).tolist()] * FRAMES]
    write(path, pictures(speaks, width=2 * SIDE), speech(speaks), points={"people": people})


def _leaving(path: Path) -> None:
    good(path, seed=4, points={"points": [FACE] * 35 + [None] * (FRAMES - 35)})


def _cuts_every_second(path: Path) -> None:
    speaks = talking(4 * FPS, seed=5)
    shots = np.concatenate(
        [np.stack(list(pictures(speaks[FPS * n : FPS * (n + 1)], offset=(-70, 60)[n % 2]))) for n in range(4)]
    )
    write(path, list(shots), speech(speaks))


def _eight_k(path: Path) -> None:
    speaks = talking(MIN_FRAMES + 1, seed=6)
    points = (np.array(POINTS) - POINTS.mean(axis=0)) * 60 + (3840, 2160)
    write(path, pictures(speaks, 7680, 4320), speech(speaks), codec="mjpeg", points=points.tolist())


def _rotated(path: Path) -> None:
    speaks = talking(seed=7)
    write(path, pictures(speaks, width=SIDE, height=SIDE + 32), speech(speaks), rotation=90)


ODD = [
    Odd("zero bytes.mp4", lambda path: path.touch(), REJECTED, "check", "the file is empty"),
    Odd("text.mp4", lambda path: path.write_text("I am no video"), REJECTED, "check", "not readable as video"),
    Odd("no index.mp4", lambda path: _cut(path, 0.4), REJECTED, "check", "not readable as video"),
    Odd("audio only.mp4", lambda path: _audio_only(path), REJECTED, "check", "no moving picture"),
    Odd("video only.mp4", lambda path: write(path, pictures(talking()), None), REJECTED, "check", "no sound"),
    Odd(
        "1 fps.mp4",
        lambda path: write(path, pictures(talking(3)), speech(talking(75)), fps=1),
        REJECTED,
        "check",
        "1 fps, at least 10",
    ),
    Odd("120 fps.mp4", lambda path: _fast(path), KEPT),
    Odd("variable rate.mkv", _variable, KEPT),
    Odd("rotated.mp4", _rotated, KEPT),
    Odd("8K.mp4", _eight_k, KEPT),
    Odd(
        "16 px.mp4",
        lambda path: write(path, pictures(talking(), 16, 16), speech(talking())),
        REJECTED,
        "check",
        "16 pixels",
    ),
    Odd(
        "1 s.mp4",
        lambda path: write(path, pictures(talking(25)), speech(talking(25))),
        REJECTED,
        "check",
        "of picture, at least 1.2 s",
    ),
    Odd("no face.mp4", lambda path: good(path, seed=8, points=None), REJECTED, "faces", "no face found"),
    Odd("two faces.mp4", _two_people, KEPT, num_clips=2),
    Odd("face leaving.mp4", _leaving, KEPT),
    Odd("a cut every second.mp4", _cuts_every_second, REJECTED, "segments", "a face for 25 frames, at least 30 needed"),
    Odd("sound 0.3 s late.mp4", lambda path: _late(path, 0.32), REJECTED, "sync", "8 frames"),
    Odd("sound 0.12 s late.mp4", lambda path: _late(path, 0.12), KEPT),
    Odd("one side silent.mp4", lambda path: _one_sided(path), KEPT),
    Odd("8 kHz.mp4", lambda path: write(path, pictures(talking()), speech(talking(), 8000), rate_hz=8000), KEPT),
    Odd("5 point 1.mp4", lambda path: _surround(path), KEPT),
    Odd(
        "silence.mp4",
        lambda path: write(path, pictures(talking()), 0 * speech(talking())),
        REJECTED,
        "check",
        "silence",
    ),
    Odd(
        "sound ends early.mp4",
        lambda path: write(path, pictures(talking()), speech(talking())[:8000]),
        REJECTED,
        "check",
        "of sound",
    ),
    Odd("spaces and 😀 ü.mp4", lambda path: good(path, seed=9), KEPT),
    Odd("back\\slash.mp4", lambda path: good(path, seed=16), KEPT),
    Odd("many.dots.in.a..name.mp4", lambda path: good(path, seed=10), KEPT),
    Odd("loop.mp4", _loop, REJECTED, "check", "no file"),
    Odd("loop back.mp4", lambda path: None, REJECTED, "check", "no file"),
    Odd("nowhere.mp4", lambda path: path.symlink_to("gone"), REJECTED, "check", "no file"),
    Odd("pipe.mp4", lambda path: os.mkfifo(path), REJECTED, "check", "no file"),
    Odd("unreadable.mp4", lambda path: good(path, seed=11).chmod(0), FAILED, "work", "PermissionError"),
    Odd("z duplicate.mp4", lambda path: _duplicate(path), REJECTED, "check", "the same bytes as spaces and 😀 ü.mp4"),
    Odd("notes.txt", lambda path: path.write_text("filmed on Sunday"), REJECTED, "check", "not readable as video"),
]


def _audio_only(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        track: Any = container.add_stream("aac", rate=RATE_HZ)
        track.codec_context.layout = "mono"
        _write_sound(container, track, speech(talking())[None], RATE_HZ, "mono")


def _fast(path: Path) -> None:
    speaks = talking(seed=12)
    shown = (np.arange(len(speaks) * 120 // FPS) * FPS) // 120
    write(path, pictures(speaks[shown]), speech(speaks), fps=120)


def _late(path: Path, late_s: float) -> None:
    speaks = talking(60, seed=13)
    write(path, pictures(speaks), speech(speaks, late_s=late_s))


def _one_sided(path: Path) -> None:
    sound = speech(talking(seed=14))
    write(path, pictures(talking(seed=14)), np.stack([sound, 0 * sound]), layout="stereo")


def _surround(path: Path) -> None:
    sound = speech(talking(seed=15), 48000)
    channels = np.stack([0 * sound] * 2 + [sound] + [0 * sound] * 3)  # in the middle, where films have their dialogue
    write(path, pictures(talking(seed=15)), channels, rate_hz=48000, layout="5.1")


def _duplicate(path: Path) -> None:
    original = path.with_name("spaces and 😀 ü.mp4")
    path.write_bytes(original.read_bytes())
    path.with_suffix(".json").write_text(original.with_suffix(".json").read_text())


def make_odd_folder(folder: Path) -> list[Odd]:
    """Make all of them, and return what is to become of each."""
    folder.mkdir(parents=True)
    for odd in ODD:
        odd.make(folder / odd.name)
    return ODD
