from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
import pytest

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.media.video import read_frames
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
