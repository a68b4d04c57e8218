from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.media.resampling import shown_frames
from lipsync_lightning.media.video import read_frames, timed_frames
from tiny_media import number_of, numbered_frames, write_timed

AT_25 = [40 * k for k in range(60)]
AT_30 = [round(1000 * k / 30) for k in range(60)]
OPEN_GROUPS = {"x264-params": "open-gop=1:scenecut=0:b-pyramid=normal"}


def numbers_of(frames: Iterable[np.ndarray]) -> list[int]:
    return [number_of(frame) for frame in frames]


def write_noisy(path: Path, times_ms: list[int], **options: str) -> Path:
    """Write numbered frames in groups of 12 with B-frames; some noise makes the encoder use them."""
    frames = numbered_frames(len(times_ms))
    noise = np.random.default_rng(0).integers(-20, 21, frames.shape)
    pictures = np.clip(frames + noise, 0, 255).astype(np.uint8)
    return write_timed(path, times_ms, pictures, bf="3", g="12", **options)


@pytest.mark.parametrize("options", [{}, OPEN_GROUPS], ids=["closed", "open"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_a_part_starts_and_stops_at_exactly_the_frames_asked_for(tmp_path, name, options):
    path = write_noisy(tmp_path / name, [3000 + time_ms for time_ms in AT_25], **options)
    for first in range(0, 60, 7):
        part = {"start_s": first / 25, "stop_s": (first + 5) / 25}
        expected = list(range(first, min(60, first + 5)))
        assert numbers_of(read_frames(path, **part)) == expected
        assert numbers_of(read_frames(path, fps=25, **part)) == expected


def test_parts_that_meet_hold_every_frame_once(tmp_path):
    path = write_noisy(tmp_path / "a.mkv", AT_30)
    first, middle, last = ({"stop_s": 1 / 3}, {"start_s": 1 / 3, "stop_s": 1.2}, {"start_s": 1.2})
    shown = [number for part in (first, middle, last) for number in numbers_of(read_frames(path, **part))]
    assert shown == list(range(60))


def test_what_lies_before_a_part_is_not_decoded(tmp_path):
    path = write_noisy(tmp_path / "a.mp4", AT_25)
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        for packet in [packet for packet in container.demux(video=0) if packet.size][14:18]:
            assert packet.pos is not None
            content[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(content)
    with pytest.raises(BadMedia):
        list(read_frames(path))
    assert numbers_of(read_frames(path, start_s=1.0)) == list(range(25, 60))


def write_at(path: Path, numbers: range, start_s: float) -> Path:
    """Write numbered frames in a format whose clock may start anywhere."""
    with av.open(str(path), "w", options={"mpegts_copyts": "1"} if path.suffix == ".ts" else {}) as container:
        stream = container.add_stream("mpeg2video" if path.suffix == ".vob" else "libx264", rate=25)
        pictures = numbered_frames(numbers.stop)[numbers.start :]
        stream.codec_context.height, stream.codec_context.width = pictures.shape[1:3]
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(start_s * 25) + number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("suffix", "first_s", "second_s"),
    [(".ts", 0, 0), (".ts", 3600, 0), (".ts", 5, 3.2), (".ts", 0, 100), (".ts", 0, 7200), (".vob", 0, 0)],
)
def test_recordings_joined_with_cat_follow_each_other(tmp_path, suffix, first_s, second_s):
    path = tmp_path / f"joined{suffix}"
    parts = ((f"a{suffix}", range(32), first_s), (f"b{suffix}", range(32, 64), second_s))
    path.write_bytes(b"".join(write_at(tmp_path / name, *part).read_bytes() for name, *part in parts))
    frames = list(timed_frames(path))
    assert numbers_of(frame.image for frame in frames) == list(range(64))
    assert [frame.time_s for frame in frames] == [Fraction(k, 25) for k in range(64)]
    assert {frame.duration_s for frame in frames} == {Fraction(1, 25)}
    assert numbers_of(read_frames(path, fps=25)) == list(range(64))
    assert numbers_of(read_frames(path, fps=25, start_s=1.6, stop_s=2)) == list(range(40, 50))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("pause_ms", [2000, 60_000])
def test_a_variable_rate_is_kept_and_so_is_a_pause(tmp_path, name, pause_ms):
    times_ms = [0, 40, 80, 130, 140, 140 + pause_ms, 180 + pause_ms]
    frames = list(timed_frames(write_timed(tmp_path / name, times_ms, numbered_frames(7))))
    assert numbers_of(frame.image for frame in frames) == list(range(7))
    assert [float(frame.time_s) for frame in frames] == [time_ms / 1000 for time_ms in times_ms]
    assert [float(frame.duration_s) for frame in frames[:-1]] == list(np.diff(times_ms) / 1000)
    assert 0 < frames[-1].duration_s < pause_ms


def test_a_clock_that_stutters_is_no_new_beginning(tmp_path):
    """Times that step back a little, as in files whose frames were stored out of order, still rise."""
    path = write_at(tmp_path / "a.ts", range(10), 0)
    with av.open(str(path)) as source, av.open(str(tmp_path / "b.ts"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux() if packet.size):
            packet.stream = stream
            if number == 5 and packet.pts is not None:
                packet.pts -= 90 * 60
            target.mux(packet)
    frames = list(timed_frames(tmp_path / "b.ts"))
    assert all(frame.duration_s > 0 for frame in frames)
    assert float(frames[-1].time_s) == pytest.approx(9 / 25, abs=0.001)


def test_frames_without_times_follow_each_other(tmp_path):
    path = write_timed(tmp_path / "a.mp4", AT_25[:5], numbered_frames(5), bf="0")
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        for frame in frames[2:]:
            frame.pts = None
        shown = shown_frames(container, container.streams.video[0], iter(frames), fps=None, start_s=0, stop_s=None)
        assert [begin for _, begin, _ in shown] == [Fraction(k, 25) for k in range(5)]
