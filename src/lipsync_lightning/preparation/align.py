"""Follow every face through a shot and cut stretches in which it is always there."""

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field

import numpy as np

from lipsync_lightning.media.alignment import Aligner, align
from lipsync_lightning.media.people import PeopleTracker


@dataclass
class Stretch:
    """Consecutive frames of one person's face, aligned."""

    first_frame: int
    person: int  # counted from 0 in the order in which they appear
    faces: list[np.ndarray] = field(default_factory=list)  # (resolution, resolution, 3), uint8

    def take(self, num_frames: int) -> "Stretch":
        """Return the first `num_frames` frames and keep the rest."""
        taken = Stretch(self.first_frame, self.person, self.faces[:num_frames])
        self.first_frame, self.faces = self.first_frame + num_frames, self.faces[num_frames:]
        return taken


class _Stay:
    """One person from coming to leaving, as far as not yet handed on."""

    def __init__(self, first_frame: int, person: int, resolution: int) -> None:
        self.stretch = Stretch(first_frame, person)
        self._aligner = Aligner(resolution=resolution)
        self._resolution = resolution

    def add(self, frame: np.ndarray, points: np.ndarray) -> None:
        self.stretch.faces.append(align(frame, self._aligner.matrix(points), self._resolution))


def aligned_stretches(
    frames: Iterable[tuple[np.ndarray, bool]], people: PeopleTracker, resolution: int, longest: int, shortest: int
) -> Iterator[Stretch]:
    """Yield stretches of at most `longest` frames; a stretch ends where the face is lost or another shot begins.

    They come in the order in which they are complete, at the same frame by person. Holds at most `longest + shortest` aligned faces per
    person in sight, `shortest <= longest`. A stay that lasts at least `shortest` frames is cut into parts that do too, as far as
    `longest` allows; shorter stays are yielded as they are.

    Args:
        frames: each (H, W, 3) uint8 RGB, and whether a shot begins with it.
        resolution: side of the aligned face, in pixels.
    """
    stays: dict[int, _Stay] = {}
    for index, (frame, begins_shot) in enumerate(frames):
        if begins_shot:
            people.cut()
            yield from _ended(stays, stays.keys(), longest, shortest)
        points_of = people.people(frame)
        yield from _ended(stays, stays.keys() - points_of.keys(), longest, shortest)
        for person, points in sorted(points_of.items()):
            if person not in stays:
                stays[person] = _Stay(index, person, resolution)
            stays[person].add(frame, points)
            if len(stays[person].stretch.faces) == longest + shortest:
                yield stays[person].stretch.take(longest)
    yield from _ended(stays, stays.keys(), longest, shortest)


def _ended(stays: dict[int, _Stay], persons: Set[int], longest: int, shortest: int) -> Iterator[Stretch]:
    for person in sorted(persons):
        yield from _parts(stays.pop(person).stretch, longest, shortest)


def _parts(stretch: Stretch, longest: int, shortest: int) -> Iterator[Stretch]:
    num_frames = len(stretch.faces)
    if num_frames > longest:
        # Two halves, unless one whole part and a useless rest is more than two useless halves.
        yield stretch.take((num_frames + 1) // 2 if num_frames >= 2 * shortest else longest)
    yield stretch
