"""Which frames of one person are fit to be painted: how far turned, how large, whether covered."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt, median_filter

# Mesh points: tip of the nose, and where the face ends at both sides.
_NOSE, _SIDES = 1, [234, 454]
# How far the tip of the nose stands before the line between the sides, in halves of it: MediaPipe's canonical face.
_NOSE_LENGTH = 1.29
_LIPS = [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185]  # their outline
_EYES = ([70, 63, 105, 66, 107, 33, 133, 145], [336, 296, 334, 293, 300, 263, 362, 374])  # with their brows
_LIPS_WIDTH = 20  # pixels at which lips are looked at
# Measured on speaking faces and covered ones (benchmarks/README.md), as parts of how much lightness varies about the
# eyes, so that a dim picture counts like a bright one: a bare mouth's contrast is more, and its colour against the skin
# changes by less. Of its own contrast in most frames it has more than the second.
_CONTRAST, _OWN_CONTRAST, _CHANGE = 0.75, 0.55, 0.65
_COLOURS = np.array([0.5, 1.0, 1.0])  # L counts for less: shadows and teeth change it
NOT_SEEN = "the face is not seen"
_UNKNOWN = [float("nan")] * 6
_BRIDGED = 5  # frames of the median: what lasts one or two is passed over


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Beyond which a face is left alone."""

    max_turn_degrees: float = 60.0  # to the left or right; from about there half of the mouth is hidden
    min_side_px: float = 30.0  # of the square around the face, in the video
    max_covered: float = 1.0  # see `Records.covered`; larger: only what is covered beyond doubt
    fade_frames: int = 5  # over which the painted mouth goes and comes


EVERY_FRAME = Thresholds(max_turn_degrees=float("inf"), min_side_px=0, max_covered=float("inf"), fade_frames=0)


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
    # (F, 5): L, a, b of the lips less those of the skin around them; how much L varies in the lips, and about the eyes
    mouth: np.ndarray

    @property
    def covered(self) -> np.ndarray:
        """Return, (F,), how little a mouth looks like one, or like this person's in most frames; over 1: covered.

        Before a hand, a cloth or a mask no lips are seen; a microphone, food or a cup has its own colour.
        """
        lips, known = self.mouth[:, :3], ~np.isnan(self.mouth[:, 0])
        if not known.any():
            return self.mouth[:, 0]
        contrast = np.linalg.norm(lips, axis=1) + self.mouth[:, 3]
        eyes = np.maximum(np.median(self.mouth[known, 4]), 1e-3)
        change = np.linalg.norm((lips - np.median(lips[known], axis=0)) * _COLOURS, axis=1)
        least = np.maximum(_CONTRAST * eyes, _OWN_CONTRAST * np.median(contrast[known]))
        return np.maximum(least / np.maximum(contrast, 1e-3), change / (_CHANGE * eyes))


def measure(frame: np.ndarray, mesh: np.ndarray) -> list[float]:
    """Return a face's row of `Records`: of a frame (H, W, 3) uint8 RGB of square pixels, and a mesh (468, 2)."""
    return [turn_of(mesh), *mouth_of(frame, mesh)]


def records_of(side: np.ndarray, rows: Sequence[list[float] | None]) -> Records:
    """Return the records of one person: sides (F,), and what `measure` returned, None where no mesh is known."""
    values = np.array([_UNKNOWN if row is None else row for row in rows], np.float32).reshape(-1, len(_UNKNOWN))
    return Records(side=side, turn=values[:, 0], mouth=values[:, 1:])


def turn_of(mesh: np.ndarray) -> float:
    """Return by how many degrees a face (468, 2) is turned to the right: where its nose is between its sides."""
    left, right = mesh[_SIDES]
    half = (right - left) / 2
    place = (mesh[_NOSE] - (left + right) / 2) @ half / max(half @ half, 1e-9)
    return float(np.degrees(np.arctan(place / _NOSE_LENGTH)))


def mouth_of(frame: np.ndarray, mesh: np.ndarray) -> list[float]:
    """Return the numbers of `Records.mouth` for a frame (H, W, 3) and a mesh (468, 2); NaN, if out of the frame."""
    scale = _LIPS_WIDTH / float(np.linalg.norm(np.ptp(mesh[_LIPS], axis=0)))
    lips, around = _colours(frame, [mesh[_LIPS]], scale)
    eyes, _ = _colours(frame, [cv2.convexHull(mesh[side].astype(np.float32))[:, 0] for side in _EYES], scale)
    if not (len(lips) and len(around) and len(eyes)):
        return _UNKNOWN[1:]
    return [*(lips.mean(axis=0) - around.mean(axis=0)).tolist(), float(lips[:, 0].std()), float(eyes[:, 0].std())]


def _colours(frame: np.ndarray, outlines: list[np.ndarray], scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the colours (n, 3), L, a, b, inside outlines (points, 2) and close around them, of the frame scaled."""
    points, room = np.concatenate(outlines), 6 / scale
    low = np.maximum(np.floor(points.min(axis=0) - room).astype(int), 0)
    high = np.maximum(np.ceil(points.max(axis=0) + room).astype(int), 0)
    seen = frame[low[1] : high[1], low[0] : high[0]]
    if not seen.size:
        return np.empty((0, 3)), np.empty((0, 3))
    size = np.maximum(np.rint(np.array(seen.shape[1::-1]) * scale).astype(int), 1)
    seen = cv2.resize(seen, size.tolist(), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    lab = cv2.cvtColor(cv2.GaussianBlur(seen, (3, 3), 0), cv2.COLOR_RGB2LAB)
    inside = np.zeros(lab.shape[:2], np.uint8)
    for outline in outlines:
        cv2.fillPoly(inside, [np.rint((outline - low) * scale * 16).astype(np.int32)], 1, shift=4)
    around = cv2.dilate(inside, np.ones((9, 9))) - cv2.dilate(inside, np.ones((3, 3)))
    return lab[inside > 0], lab[around > 0]


def faded(painted: np.ndarray, fade_frames: int) -> np.ndarray:
    """Return how much of the new mouth each frame shows, (F,) float32, of which are painted, (F,) bool."""
    if painted.all():
        return np.ones(len(painted), np.float32)
    return np.minimum(np.asarray(distance_transform_edt(painted)) / (fade_frames + 1), 1).astype(np.float32)


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
    lasting = [median_filter(sign.astype(np.uint8), size=_BRIDGED, mode="reflect") > 0 for sign, _ in limits]
    return np.select(lasting, [words for _, words in limits], default="")
