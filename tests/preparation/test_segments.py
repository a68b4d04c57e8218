import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from lipsync_lightning.media.people import PeopleTracker, SeenFace
from lipsync_lightning.preparation.segments import Stretch, aligned_stretches
from tiny_media import POINTS, number_of, numbered_frames


class ScriptedPeople(PeopleTracker):
    """Who is seen on which frames, by number."""

    def __init__(self, seen_on: dict[int, set[int]]) -> None:
        self.seen_on = seen_on
        self.frame = -1
        self.cuts: list[int] = []  # before which frames

    def cut(self) -> dict[int, int]:
        self.cuts.append(self.frame + 1)
        return {}

    def people(self, frame: np.ndarray) -> dict[int, SeenFace]:
        self.frame += 1
        return {
            person: SeenFace(POINTS, None) for person, frames in reversed(self.seen_on.items()) if self.frame in frames
        }


def shown(num_frames: int, cuts: tuple[int, ...] = ()) -> Iterator[tuple[np.ndarray, bool]]:
    frames = numbered_frames(num_frames) if num_frames else []
    return ((frame, index in (0, *cuts)) for index, frame in enumerate(frames))


def stretches(
    seen_on: dict[int, set[int]], longest: int = 20, shortest: int = 2, cuts: tuple[int, ...] = ()
) -> list[Stretch]:
    num_frames = max((max(frames) + 1 for frames in seen_on.values() if frames), default=0)
    return list(aligned_stretches(shown(num_frames, cuts), ScriptedPeople(seen_on), 32, longest, shortest))


@pytest.mark.parametrize(("longest", "shortest"), [(10, 5), (10, 3), (6, 5), (5, 5), (1, 1)])
@pytest.mark.parametrize("num_frames", [0, 1, 4, 5, 6, 9, 10, 11, 14, 15, 16, 29, 31])
def test_parts_cover_every_frame_with_a_face_once(num_frames: int, longest: int, shortest: int):
    seen = set(range(num_frames)) - {3, 20, 21}
    frames = [
        (stretch.first_frame + offset, number_of(face))
        for stretch in stretches({0: seen}, longest, shortest, cuts=(12,))
        for offset, face in enumerate(stretch.faces)
    ]
    assert frames == [(frame, frame) for frame in sorted(seen)]


@pytest.mark.parametrize(("longest", "shortest"), [(10, 5), (10, 3), (6, 5), (5, 5)])
def test_parts_are_long_enough_where_they_can_be_and_never_too_long(longest: int, shortest: int):
    for num_frames in range(shortest, 35):
        lengths = [len(stretch.faces) for stretch in stretches({0: set(range(num_frames))}, longest, shortest)]
        assert max(lengths) <= longest
        too_short = [length for length in lengths if length < shortest]
        assert len(too_short) <= (longest < 2 * shortest)
        assert sum(lengths) - sum(too_short) >= shortest


STAYS = set(range(8))


@pytest.mark.parametrize(
    ("seen_on", "settings", "expected"),
    [
        ({0: STAYS - {5}}, {}, [(0, 0, 5), (0, 6, 2)]),  # a lost face splits
        ({0: STAYS}, {"cuts": (5,)}, [(0, 0, 5), (0, 5, 3)]),  # so does a shot, even where the face stays
        ({0: STAYS, 1: set(range(4, 10))}, {}, [(0, 0, 8), (1, 4, 6)]),  # everyone has stretches of their own
        ({2: STAYS, 0: STAYS, 1: STAYS}, {}, [(0, 0, 8), (1, 0, 8), (2, 0, 8)]),  # complete at once: by person
        ({1: STAYS, 0: STAYS}, {"longest": 4}, [(0, 0, 4), (1, 0, 4), (0, 4, 4), (1, 4, 4)]),
    ],
)
def test_where_stretches_begin_and_end(seen_on: dict, settings: dict, expected: list[tuple[int, int, int]]):
    found = stretches(seen_on, **settings)
    assert [(stretch.person, stretch.first_frame, len(stretch.faces)) for stretch in found] == expected


def test_the_tracker_is_told_of_every_shot_before_its_first_frame():
    people = ScriptedPeople({0: {0}})
    list(aligned_stretches(shown(12, cuts=(5, 9)), people, 32, 20, 2))
    assert people.cuts == [0, 5, 9]


def test_a_new_stay_starts_a_new_smoothing():
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)

    class Nodding(ScriptedPeople):
        def people(self, frame: np.ndarray) -> dict[int, SeenFace]:
            seen, nose_moves = super().people(frame), np.array([[0, 0], [0, 0], [self.frame, 0]])
            return {person: SeenFace(face.points + nose_moves, None) for person, face in seen.items()}

    def last_face(seen: set[int]) -> np.ndarray:
        return list(aligned_stretches([(picture, False)] * 4, Nodding({0: seen}), 32, 20, 2))[-1].faces[-1]

    np.testing.assert_array_equal(last_face({0, 1, 3}), last_face({3}))
    assert not np.array_equal(last_face({0, 1, 2, 3}), last_face({3}))


def test_what_was_handed_on_is_not_held_any_longer():
    people = ScriptedPeople({0: set(range(40)), 1: set(range(40))})
    generator = aligned_stretches(shown(40), people, 32, longest=6, shortest=3)
    for _ in range(8):
        faces = [weakref.ref(face) for face in next(generator).faces]
        assert [face() for face in faces] == [None] * len(faces)
