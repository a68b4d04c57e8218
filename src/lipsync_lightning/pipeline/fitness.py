"""Which frames of one person are fit to be painted: how far the face is turned, how large it is, what covers the mouth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt, median_filter

# Mesh points: tip of the nose, and where the face ends at both sides.
_NOSE, _SIDES = 1, [234, 454]
# How far the tip of the nose stands before the line between the sides, in halves of that line: MediaPipe's canonical face.
_NOSE_LENGTH = 1.29
_LIPS = [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185]  # their outline
_LIPS_WIDTH = 20  # pixels at which lips are looked at
# Measured on speaking faces and covered ones (benchmarks/README.md): a bare mouth has more contrast, and its colour
# against the skin changes less.
_LEAST_CONTRAST = 9.0
_MOST_CHANGE = 6.0
NOT_SEEN = "the face is not seen"
_UNKNOWN = [float("nan")] * 5
_BRIDGED = 5  # frames of the median: what lasts one or two is passed over


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Beyond which a face is left alone."""

    max_turn_degrees: float = 60.0  # to the left or right; from about there half of the mouth is hidden
    min_side_px: float = 30.0  # of the square around the face, in the video
    max_covered: float = 1.0  # see `Records.covered`; larger: only what is covered beyond doubt
    fade_frames: int = 5  # over which the painted mouth goes and comes


class Occluder(Protocol):
    """What sees things before a face. None comes with the library."""

    def __call__(self, face: np.ndarray) -> np.ndarray:
        """Return (res, res) float32 for an aligned face (res, res, 3) uint8: 1 where something lies before it."""
        ...


@dataclass(frozen=True)
class Records:
    """What was measured of one person's successive frames; NaN where it is not known."""

    side: np.ndarray  # (F,) pixels; NaN: no face was seen
    turn: np.ndarray  # (F,) degrees, positive to the picture's right
    mouth: np.ndarray  # (F, 4): L, a, b of the lips less those of the skin around them; deviation of L in the lips

    @property
    def covered(self) -> np.ndarray:
        """Return, (F,), how little a mouth looks like one, or like this person's in most of the frames; over 1: covered.

        A hand, a cloth, a mask show no lips. A microphone, food, a cup have their own colour against the skin: the
        change from the median is told by hue, since shadows and teeth change lightness.
        """
        contrast = np.linalg.norm(self.mouth[:, :3], axis=1) + self.mouth[:, 3]
        if np.isnan(contrast).all():
            return contrast
        change = np.linalg.norm(_HUES * (self.mouth[:, :3] - np.nanmedian(self.mouth[:, :3], axis=0)), axis=1)
        return np.maximum(_LEAST_CONTRAST / np.maximum(contrast, 1e-6), change / _MOST_CHANGE)


_HUES = np.array([0.0, 1.0, 0.0])


def measure(frame: np.ndarray, mesh: np.ndarray | None, matrix: np.ndarray, resolution: int) -> list[float]:
    """Return a frame's row of `Records`.

    Args:
        frame: (H, W, 3) uint8 RGB, of square pixels.
        mesh: (468, 2), pixels of the frame; None, where only the alignment is known.
        matrix: (2, 3), of `Aligner` at `resolution`.
    """
    side = resolution / float(np.sqrt(np.linalg.det(matrix[:, :2])))
    return [side, *(_UNKNOWN if mesh is None else [turn_of(mesh), *mouth_of(frame, mesh)])]


def records_of(rows: Sequence[list[float] | None]) -> Records:
    """Return the records of what `measure` returned, frame after frame; None where the face was not seen."""
    values = np.array([[np.nan, *_UNKNOWN] if row is None else row for row in rows], np.float32).reshape(-1, 6)
    return Records(side=values[:, 0], turn=values[:, 1], mouth=values[:, 2:])


def turn_of(mesh: np.ndarray) -> float:
    """Return by how many degrees a face (468, 2) is turned to the picture's right: where its nose is between its sides."""
    left, right = mesh[_SIDES]
    half = (right - left) / 2
    place = (mesh[_NOSE] - (left + right) / 2) @ half / max(half @ half, 1e-9)
    return float(np.degrees(np.arctan(place / _NOSE_LENGTH)))


def mouth_of(frame: np.ndarray, mesh: np.ndarray) -> list[float]:
    """Return the four numbers of `Records.mouth` for a frame (H, W, 3) and a mesh (468, 2); NaN, if out of the frame."""
    lips = mesh[_LIPS]
    width = float(np.linalg.norm(np.ptp(lips, axis=0)))
    low = np.maximum(np.floor(lips.min(axis=0) - width / 3).astype(int), 0)
    high = np.ceil(lips.max(axis=0) + width / 3).astype(int)
    seen = frame[low[1] : max(high[1], 0), low[0] : max(high[0], 0)]
    if not seen.size:
        return [float("nan")] * 4
    size = np.maximum(np.rint(np.array(seen.shape[1::-1]) * (_LIPS_WIDTH / width)).astype(int), 1)
    seen = cv2.resize(seen, size.tolist(), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    lab = cv2.cvtColor(cv2.GaussianBlur(seen, (3, 3), 0), cv2.COLOR_RGB2LAB)
    outline = np.rint((lips - low) * (_LIPS_WIDTH / width) * 16).astype(np.int32)
    inside = cv2.fillPoly(np.zeros(lab.shape[:2], np.uint8), [outline], 1, shift=4)
    around = cv2.dilate(inside, np.ones((9, 9))) - cv2.dilate(inside, np.ones((3, 3)))
    if not (inside.any() and around.any()):
        return [float("nan")] * 4
    lips_lab = lab[inside > 0]
    return [*(lips_lab.mean(axis=0) - lab[around > 0].mean(axis=0)).tolist(), float(lips_lab[:, 0].std())]


def faded(painted: np.ndarray, fade_frames: int) -> np.ndarray:
    """Return how much of the new mouth each frame shows, (F,) float32, of which are painted, (F,) bool."""
    if painted.all():
        return np.ones(len(painted), np.float32)
    return np.minimum(distance_transform_edt(painted) / (fade_frames + 1), 1).astype(np.float32)


def reasons_of(records: Records, thresholds: Thresholds) -> np.ndarray:
    """Return why each frame is left alone, (F,) strings; empty, where it is painted."""
    limits = [
        (np.isnan(records.side), NOT_SEEN),
        (records.side < thresholds.min_side_px, f"the face is smaller than {thresholds.min_side_px:g} pixels"),
        (
            np.abs(records.turn) > thresholds.max_turn_degrees,
            f"the face is turned away by more than {thresholds.max_turn_degrees:g} degrees",
        ),
        (records.covered > thresholds.max_covered, "something covers the mouth"),
    ]
    lasting = [median_filter(sign.astype(np.uint8), size=_BRIDGED, mode="nearest") > 0 for sign, _ in limits]
    return np.select(lasting, [words for _, words in limits], default="")
