"""Follow every face through a shot, align it, and cut stretches in which it is always there."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from lipsync_lightning.media.alignment import Aligner, align
from lipsync_lightning.media.people import PeopleTracker


@dataclass
class Stretch:
    """Consecutive frames of one person's face, aligned."""

    first_frame: int
    person: int  # counted from 0 in the order in which they appear
    aligner: Aligner
    faces: list[np.ndarray] = field(default_factory=list)  # (resolution, resolution, 3), uint8

    def take(self, num_frames: int) -> "Stretch":
        """Return the first `num_frames` frames and keep the rest."""
        taken = Stretch(self.first_frame, self.person, self.aligner, self.faces[:num_frames])
        self.first_frame, self.faces = self.first_frame + num_frames, self.faces[num_frames:]
        return taken


def aligned_stretches(
    frames: Iterable[tuple[np.ndarray, bool]], tracker: PeopleTracker, resolution: int, longest: int, shortest: int
) -> Iterator[Stretch]:
    """Yield stretches of at most `longest` frames; one ends where the face is lost or another shot begins.

    They come in the order in which they are complete, at the same frame by person. Holds at most `longest + shortest`
    aligned faces per person in sight, `shortest <= longest`. Of a face that stays for at least `shortest` frames no
    part is shorter than that, as far as `longest` allows; shorter stays are yielded as they are.

    Args:
        frames: each (H, W, 3) uint8 RGB, and whether a shot begins with it.
        resolution: side of the aligned face, in pixels.
    """
    in_sight: dict[int, Stretch] = {}
    for index, (frame, begins_shot) in enumerate(frames):
        if begins_shot:
            tracker.cut()
        seen = tracker.people(frame)
        for person in sorted(in_sight):
            if begins_shot or person not in seen:
                yield from _parts(in_sight.pop(person), longest, shortest)
        for person, face in sorted(seen.items()):
            if person not in in_sight:
                in_sight[person] = Stretch(index, person, Aligner(resolution=resolution))
            stretch = in_sight[person]
            stretch.faces.append(align(frame, stretch.aligner.matrix(face.points), resolution))
            if len(stretch.faces) == longest + shortest:
                yield stretch.take(longest)
    for person in sorted(in_sight):
        yield from _parts(in_sight.pop(person), longest, shortest)


def _parts(stretch: Stretch, longest: int, shortest: int) -> Iterator[Stretch]:
    num_frames = len(stretch.faces)
    if num_frames > longest:
        # Two halves, unless one whole part and a useless rest is more than two useless halves.
        yield stretch.take((num_frames + 1) // 2 if num_frames >= 2 * shortest else longest)
    yield stretch
