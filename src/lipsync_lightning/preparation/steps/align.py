"""Second step: follow the face and cut stretches in which it is always there."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from lipsync_lightning.media.faces import Aligner, align

PointsOfFrame = Callable[[np.ndarray], np.ndarray | None]


@dataclass
class Stretch:
    """Consecutive frames of one face, aligned."""

    first_frame: int
    faces: list[np.ndarray] = field(default_factory=list)  # (resolution, resolution, 3), uint8

    def split(self, num_frames: int) -> tuple["Stretch", "Stretch"]:
        return (
            Stretch(self.first_frame, self.faces[:num_frames]),
            Stretch(self.first_frame + num_frames, self.faces[num_frames:]),
        )


def aligned_stretches(
    frames: Iterable[np.ndarray], points_of: PointsOfFrame, resolution: int, longest: int, shortest: int
) -> Iterator[Stretch]:
    """Yield stretches of at most `longest` frames, in order; a stretch ends where the face is lost.

    Holds at most `longest + shortest` aligned faces, `shortest <= longest`. A stay of the face that lasts at least `shortest` frames
    is cut into parts that do too, as far as `longest` allows; shorter stays are yielded as they are.
    """
    stretch, aligner = Stretch(0), Aligner(resolution=resolution)
    for index, frame in enumerate(frames):
        points = points_of(frame)
        if points is None:
            yield from _parts(stretch, longest, shortest)
            stretch, aligner = Stretch(index + 1), Aligner(resolution=resolution)
            continue
        stretch.faces.append(align(frame, aligner.matrix(points), resolution))
        if len(stretch.faces) == longest + shortest:
            done, stretch = stretch.split(longest)
            yield done
    yield from _parts(stretch, longest, shortest)


def _parts(stretch: Stretch, longest: int, shortest: int) -> Iterator[Stretch]:
    num_frames = len(stretch.faces)
    if num_frames > longest:
        # Two halves, unless one whole part and a useless rest is more than two useless halves.
        yield from stretch.split((num_frames + 1) // 2 if num_frames >= 2 * shortest else longest)
    elif stretch.faces:
        yield stretch
