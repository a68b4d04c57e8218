"""The first look at a video: its shots, and where everyone is in each; no picture is kept."""

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import cv2
import numpy as np

from lipsync_lightning.media.alignment import side_of
from lipsync_lightning.media.face_mesh import mouth_opening
from lipsync_lightning.media.people import PeopleTracker, SeenFace
from lipsync_lightning.media.shots import AdaptiveShots
from lipsync_lightning.media.video import TimedFrame

# PySceneDetect's defaults, but a shot may be as short as 5 frames: times are uneven, so frames are counted as seconds.
_CUTS = AdaptiveShots(threshold=3.0, min_content=15.0, window=2, min_shot_seconds=5)
# Mean levels of a picture: below, a fade has reached black (PySceneDetect's threshold); above, one can begin.
_BLACK, _LIGHT = 12, 24

Measure = Callable[[np.ndarray, np.ndarray], Any]  # what to keep of a frame (H, W, 3) with square pixels, and a mesh


@dataclass(frozen=True, kw_only=True)
class Track:
    """One person in the F frames of a shot; NaN where not seen."""

    points: np.ndarray  # (F, 3, 2) float32, as `alignment.Points`, pixels as stored
    side: np.ndarray  # (F,) float32, of the face when aligned, in square pixels of the frame
    opening: np.ndarray  # (F,) float32, of the mouth, as `mouth_opening` says; NaN also where no mesh is known
    measured: list[Any]  # (F,), what `measure` returned; None where no mesh is known

    @property
    def seen(self) -> np.ndarray:
        """On which frames, (F,) bool."""
        return np.isfinite(self.side)


@dataclass(frozen=True, kw_only=True)
class Shot:
    """Successive frames between two cuts."""

    first_frame: int
    times_s: np.ndarray  # (F,) float64, of each frame
    people: dict[int, Track]  # by numbers that are the same in every shot, counted from 0


def find_shots(
    frames: Iterable[TimedFrame],
    tracker: PeopleTracker,
    pixel_aspect: Fraction = Fraction(1),
    measure: Measure | None = None,
) -> Iterator[Shot]:
    """Yield the shots of a video. One begins at a cut, unless somebody stays in place, and where a fade reached black.

    Args:
        tracker: of this video, not yet used. It is shown frames with square pixels.
        pixel_aspect: width over height of a pixel.
        measure: called once for each face; what it returns is kept.
    """
    shot = _GrowingShot(0)
    for number, (frame, begins_shot) in enumerate(_with_cuts(frames)):
        image = frame.image
        if pixel_aspect != 1:
            image = cv2.resize(image, (round(image.shape[1] * pixel_aspect), image.shape[0]))
        if begins_shot and number and not tracker.goes_on(image):
            yield shot.finished(tracker.cut(), pixel_aspect)
            shot = _GrowingShot(number)
        shot.add(frame.time_s, image, tracker.people(image), measure)
    if shot.times_s:
        yield shot.finished(tracker.cut(), pixel_aspect)


def _with_cuts(frames: Iterable[TimedFrame]) -> Iterator[tuple[TimedFrame, bool]]:
    was_light = False
    for frame, is_cut in _CUTS(frames, fps=1.0, image=lambda frame: frame.image):
        level = frame.image[::8, ::8].mean()
        fades = was_light and level < _BLACK
        was_light = not fades and (was_light or level > _LIGHT)
        yield frame, is_cut or fades


class _GrowingShot:
    def __init__(self, first_frame: int) -> None:
        self.first_frame = first_frame
        self.times_s = array("d")
        self._rows = array("f")  # of each face: frame, the tracker's number, points, side, opening
        self._measured: list[Any] = []  # of each face

    def add(self, time_s: Fraction, image: np.ndarray, seen: dict[int, SeenFace], measure: Measure | None) -> None:
        for number, face in seen.items():
            opening = np.nan if face.mesh is None else mouth_opening(face.mesh)
            self._rows.extend([len(self.times_s), number, *face.points.ravel(), side_of(face.points), opening])
            self._measured.append(None if measure is None or face.mesh is None else measure(image, face.mesh))
        self.times_s.append(float(time_s))

    def finished(self, who: dict[int, int], pixel_aspect: Fraction) -> Shot:
        """Return the shot; `who` of the video's people each number of the tracker is."""
        people, rows = {}, np.array(self._rows).reshape(-1, 10)
        persons = np.array([who[number] for number in rows[:, 1]])
        for person in sorted(set(who.values())):
            faces = np.flatnonzero(persons == person)
            frames = rows[faces, 0].astype(int)
            values, measured = np.full((len(self.times_s), 8), np.nan, np.float32), [None] * len(self.times_s)
            values[frames] = rows[faces, 2:]
            for frame, face in zip(frames, faces, strict=True):
                measured[frame] = self._measured[face]
            points = values[:, :6].reshape(-1, 3, 2) / np.array([pixel_aspect, 1], np.float32)
            people[person] = Track(points=points, side=values[:, 6], opening=values[:, 7], measured=measured)
        return Shot(first_frame=self.first_frame, times_s=np.array(self.times_s), people=people)
