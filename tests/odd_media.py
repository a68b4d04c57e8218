"""A folder of files as people really have them: broken, odd, or just unusual, each with the verdict it deserves."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np

from lipsync_lightning.preparation.ledger import FAILED, KEPT, REJECTED
from tiny_media import FPS, POINTS, RATE_HZ, SIDE

FACE = POINTS.tolist()
FRAMES = 45
MIN_FRAMES = 30  # 1.2 s, the shortest clip of the recipe that these files are meant for
DARK, BRIGHT = 100, 112  # of a frame in which nobody, or somebody, speaks: too near each other to look like a cut


def talking(num_frames: int = FRAMES, seed: int = 0) -> np.ndarray:
    """Return in which frames somebody speaks, (T,), bool."""
    return np.random.default_rng(seed).random(num_frames) < 0.5


def pictures(speaks: np.ndarray, width: int = SIDE, height: int = SIDE) -> Iterator[np.ndarray]:
    for each in speaks:
        yield np.full((height, width, 3), BRIGHT if each else DARK, np.uint8)


def speech(speaks: np.ndarray, rate_hz: int = RATE_HZ, late_s: float = 0.0) -> np.ndarray:
    """Return the sound of those frames, (1, N), heard `late_s` seconds after it is seen."""
    time_s = np.arange(round(len(speaks) * rate_hz / FPS)) / rate_hz
    frame = np.floor((time_s - late_s) * FPS).astype(int)
    loud = speaks[frame.clip(0, len(speaks) - 1)] & (frame >= 0) & (frame < len(speaks))
    return (0.4 * loud * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)[None]


def write(
    path: Path,
    frames: Iterable[np.ndarray],
    sound: np.ndarray | None,
    *,
    fps: int = FPS,
    rate_hz: int = RATE_HZ,
    layout: str = "mono",
    codec: str = "libx264",
    times: Callable[[int], int] = lambda index: index,
    rotation: int = 0,
    points: Any = FACE,
) -> None:
    """Write frames, if any, and sound (channels, N); beside them their points, those of every frame or a sidecar."""
    frames = iter(frames)
    first = next(frames, None)
    with av.open(str(path), "w", format="matroska" if path.suffix == ".mkv" else "mp4") as container:
        stream: Any = container.add_stream(codec, rate=fps) if first is not None else None
        track: Any = container.add_stream("aac", rate=rate_hz, layout=layout) if sound is not None else None
        if first is not None:
            stream.height, stream.width = first.shape[:2]
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.set_display_rotation(rotation)
            for index, picture in enumerate(chain([first], frames)):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=stream.pix_fmt)
                frame.pts, frame.time_base = times(index), Fraction(1, fps)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        if sound is not None:
            samples = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound), format="fltp", layout=layout)
            samples.sample_rate, samples.pts, samples.time_base = rate_hz, 0, Fraction(1, rate_hz)
            container.mux(track.encode(samples))
            container.mux(track.encode(None))
    sidecar = points if isinstance(points, dict) else {"points": [points] * 400}
    path.with_suffix(".json").write_text(json.dumps(sidecar))


def good(path: Path, seed: int = 0, num_frames: int = FRAMES, late_s: float = 0.0, **settings: Any) -> None:
    speaks = talking(num_frames, seed)
    rate_hz = settings.get("rate_hz", RATE_HZ)
    write(path, pictures(speaks), speech(speaks, rate_hz, late_s), **settings)


def cut(path: Path, share: float, num_frames: int) -> None:
    good(path, seed=1, num_frames=num_frames)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def loop(path: Path) -> None:
    other = path.with_name("loop back.mp4")
    path.symlink_to(other.name)
    other.symlink_to(path.name)


def variable_rate(path: Path) -> None:
    """Frames that stay for 20 to 60 ms: shown at 50 ticks a second."""
    speaks = talking(seed=2)
    shown_at = np.cumsum([0, *np.random.default_rng(0).integers(1, 4, size=len(speaks) - 1)])
    at_tick = np.searchsorted(shown_at, np.arange(0, shown_at[-1] + 2, 2), side="right") - 1
    write(path, pictures(speaks), speech(speaks[at_tick]), fps=50, times=lambda index: int(shown_at[index]))


def fast(path: Path) -> None:
    speaks = talking(seed=12)
    write(path, pictures(speaks[np.arange(len(speaks) * 120 // FPS) * FPS // 120]), speech(speaks), fps=120)


def two_people(path: Path) -> None:
    speaks = talking(seed=3)
    people = [[FACE] * FRAMES, [np.add(POINTS, (SIDE, 0)).tolist()] * FRAMES]
    write(path, pictures(speaks, width=2 * SIDE), speech(speaks), points={"people": people})


def cuts_every_second(path: Path) -> None:
    speaks = talking(4 * FPS, seed=5)
    offsets = np.repeat([-70, 60, -70, 60], FPS)
    write(
        path,
        [(frame + by).astype(np.uint8) for frame, by in zip(pictures(speaks), offsets, strict=True)],
        speech(speaks),
    )


def eight_k(path: Path) -> None:
    speaks = talking(MIN_FRAMES + 1, seed=6)
    points = (POINTS - POINTS.mean(axis=0)) * 60 + (3840, 2160)
    write(path, pictures(speaks, 7680, 4320), speech(speaks), codec="mjpeg", points=points.tolist())


def sound_in(channel: int, num_channels: int, layout: str, path: Path) -> None:
    speaks = talking(seed=14 + channel)
    sound = np.zeros((num_channels, 1), np.float32)
    sound[channel] = 1
    write(path, pictures(speaks), sound * speech(speaks, 48000), rate_hz=48000, layout=layout)


def duplicate(path: Path) -> None:
    for suffix in (".mp4", ".json"):
        path.with_suffix(suffix).write_bytes(path.with_name(f"spaces and 😀 ü{suffix}").read_bytes())


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


unfit = partial(Odd, verdict=REJECTED, step="check")
kept = partial(Odd, verdict=KEPT)
TALK, SOUND = talking(), speech(talking())
LEAVING = {"points": [FACE] * 35 + [None] * (FRAMES - 35)}
ODD = [
    unfit("zero bytes.mp4", Path.touch, reason="the file is empty"),
    unfit("text.mp4", lambda path: path.write_text("I am no video"), reason="not readable as video"),
    unfit("notes.txt", lambda path: path.write_text("filmed on Sunday"), reason="not readable as video"),
    unfit("no index.mp4", partial(cut, share=0.4, num_frames=FRAMES), reason="not readable as video"),
    kept("breaks off.mkv", partial(cut, share=0.5, num_frames=100), step="check", reason="breaks off after"),
    unfit("audio only.mp4", lambda path: write(path, [], SOUND), reason="no moving picture"),
    unfit("video only.mp4", lambda path: write(path, pictures(TALK), None), reason="no sound"),
    unfit("1 fps.mp4", lambda path: write(path, pictures(TALK[:3]), SOUND, fps=1), reason="1 fps, at least 10"),
    unfit("16 px.mp4", lambda path: write(path, pictures(TALK, 16, 16), SOUND), reason="16 pixels"),
    unfit("1 s.mp4", partial(good, num_frames=25), reason="of picture, at least 1.2 s"),
    unfit("silence.mp4", lambda path: write(path, pictures(TALK), 0 * SOUND), reason="silence"),
    unfit("sound ends early.mp4", lambda path: write(path, pictures(TALK), SOUND[:, :8000]), reason="of sound"),
    unfit("loop.mp4", loop, reason="no file"),
    unfit("loop back.mp4", lambda path: None, reason="no file"),
    unfit("nowhere.mp4", lambda path: path.symlink_to("gone"), reason="no file"),
    unfit("pipe.mp4", os.mkfifo, reason="no file"),
    kept("120 fps.mp4", fast),
    kept("variable rate.mkv", variable_rate),
    kept("rotated.mp4", lambda path: write(path, pictures(TALK, height=SIDE + 32), SOUND, rotation=90)),
    kept("8K.mp4", eight_k),
    kept("two faces.mp4", two_people, num_clips=2),
    kept("face leaving.mp4", partial(good, seed=4, points=LEAVING)),
    kept("sound 0.12 s late.mp4", partial(good, seed=13, num_frames=60, late_s=0.12)),
    Odd("sound 0.3 s late.mp4", partial(good, seed=13, num_frames=60, late_s=0.32), REJECTED, "sync", "8 frames"),
    Odd("no face.mp4", partial(good, seed=8, points=None), REJECTED, "faces", "no face found"),
    Odd("a cut every second.mp4", cuts_every_second, REJECTED, "segments", "for 25 frames, at least 30 needed"),
    Odd("unreadable.mp4", lambda path: (good(path, seed=11), path.chmod(0)), FAILED, "work", "PermissionError"),
    kept("one side silent.mp4", partial(sound_in, 0, 2, "stereo")),
    kept("5 point 1.mp4", partial(sound_in, 2, 6, "5.1")),  # in the middle, where films have their dialogue
    kept("8 kHz.mp4", partial(good, rate_hz=8000)),
    kept("spaces and 😀 ü.mp4", partial(good, seed=9)),
    kept("back\\slash.mp4", partial(good, seed=16)),
    kept("many.dots.in.a..name.mp4", partial(good, seed=10)),
    unfit("z duplicate.mp4", duplicate, reason="the same bytes as spaces and 😀 ü.mp4"),
]


def make_odd_folder(folder: Path) -> list[Odd]:
    """Make all of them, and return what is to become of each."""
    folder.mkdir(parents=True)
    for odd in ODD:
        odd.make(folder / odd.name)
    return ODD
