from collections.abc import Callable, Iterator

import numpy as np
import pytest

from lipsync_lightning.preparation.steps.align import Stretch, aligned_stretches
from tiny_media import POINTS, number_of, numbered_frames


def points_lost_on(*lost: int) -> Callable[[np.ndarray], np.ndarray | None]:
    numbers: Iterator[int] = iter(range(10_000))
    return lambda frame: None if next(numbers) in lost else POINTS


def stretches(num_frames: int, longest: int, shortest: int, lost: tuple[int, ...] = ()) -> list[Stretch]:
    return list(aligned_stretches(list(numbered_frames(num_frames)) if num_frames else [], points_lost_on(*lost), 32, longest, shortest))


@pytest.mark.parametrize(("longest", "shortest"), [(10, 5), (10, 3), (6, 5), (5, 5), (1, 1)])
@pytest.mark.parametrize("num_frames", [0, 1, 4, 5, 6, 9, 10, 11, 14, 15, 16, 29, 31])
def test_parts_cover_every_frame_with_a_face_once(num_frames: int, longest: int, shortest: int):
    lost = (3, 20, 21)
    shown = [
        (stretch.first_frame + offset, number_of(face))
        for stretch in stretches(num_frames, longest, shortest, lost)
        for offset, face in enumerate(stretch.faces)
    ]
    expected = [frame for frame in range(num_frames) if frame not in lost]
    assert shown == [(frame, frame) for frame in expected]


@pytest.mark.parametrize(("longest", "shortest"), [(10, 5), (10, 3), (6, 5), (5, 5)])
def test_parts_are_long_enough_where_they_can_be_and_never_too_long(longest: int, shortest: int):
    for num_frames in range(shortest, 35):
        lengths = [len(stretch.faces) for stretch in stretches(num_frames, longest, shortest)]
        assert max(lengths) <= longest
        too_short = [length for length in lengths if length < shortest]
        assert len(too_short) <= (longest < 2 * shortest)
        assert sum(lengths) - sum(too_short) >= shortest


def test_a_lost_face_splits():
    found = stretches(12, longest=20, shortest=2, lost=(5,))
    assert [(stretch.first_frame, len(stretch.faces)) for stretch in found] == [(0, 5), (6, 6)]


def test_no_face_gives_no_stretch():
    assert stretches(4, longest=10, shortest=2, lost=(0, 1, 2, 3)) == []
