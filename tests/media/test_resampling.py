from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.media.video import read_frames

AT_25 = [40 * k for k in range(60)]
AT_30 = [round(1000 * k / 30) for k in range(60)]
OPEN_GROUPS = {"x264-params": "open-gop=1:scenecut=0:b-pyramid=normal"}


def numbered_frame(number: int) -> np.ndarray:
    """Grey level 3 * number with some noise, so that any frame can be told from its neighbours after compression."""
    noise = np.random.default_rng(number).integers(-20, 21, (48, 64, 3))
    return np.clip(noise + 30 + 3 * number, 0, 255).astype(np.uint8)


def numbers_of(frames) -> list[int]:
    return [round((float(frame.mean()) - 30) / 3) for frame in frames]


def write_timed(path: Path, times_ms: list[int], **options: str) -> Path:
    """Write numbered frames at these times, in groups of 12 with B-frames; `options` are for x264."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10", "bf": "3", "g": "12", **options})
        stream.codec_context.width, stream.codec_context.height = 64, 48
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time_ms in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("options", [{}, OPEN_GROUPS], ids=["closed", "open"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_a_part_starts_and_stops_at_exactly_the_frames_asked_for(tmp_path, name, options):
    path = write_timed(tmp_path / name, [3000 + time_ms for time_ms in AT_25], **options)
    for first in range(0, 60, 7):
        part = {"start_s": first / 25, "stop_s": (first + 5) / 25}
        expected = list(range(first, min(60, first + 5)))
        assert numbers_of(read_frames(path, **part)) == expected
        assert numbers_of(read_frames(path, fps=25, **part)) == expected


def test_parts_that_meet_hold_every_frame_once(tmp_path):
    path = write_timed(tmp_path / "a.mkv", AT_30)
    first, middle, last = ({"stop_s": 1 / 3}, {"start_s": 1 / 3, "stop_s": 1.2}, {"start_s": 1.2})
    assert [number for part in (first, middle, last) for number in numbers_of(read_frames(path, **part))] == list(
        range(60)
    )


def test_what_lies_before_a_part_is_not_decoded(tmp_path):
    path = write_timed(tmp_path / "a.mp4", AT_25)
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        for packet in [packet for packet in container.demux(video=0) if packet.size][14:18]:
            assert packet.pos is not None
            content[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(content)
    with pytest.raises(BadMedia):
        list(read_frames(path))
    assert numbers_of(read_frames(path, start_s=1.0)) == list(range(25, 60))
