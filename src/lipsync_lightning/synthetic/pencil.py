"""Antialiased filled shapes, given in canvas coordinates."""

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import PchipInterpolator

from lipsync_lightning.synthetic.identity import Colour, Identity

Floats = NDArray[np.float64]
Frame = NDArray[np.uint8]

MIDDLE = 105.0  # x of the canvas's axis of symmetry
_SUBPIXEL_BITS = 4
_TEMPLATE_HALF_BROWS = 57.4  # of the alignment template [[17, 20], [58, 20], [37.5, 40]] * 2.8
_TEMPLATE_DROP = 56.0  # its brow line to its nose
_TEMPLATE_CENTROID_Y = (56.0 + 56.0 + 112.0) / 3


class Pencil:
    """Draws on one picture through one canvas-to-picture matrix."""

    def __init__(self, frame: Frame, matrix: Floats) -> None:
        self.frame = frame
        self.matrix = matrix
        self._turn = np.ascontiguousarray(matrix[:, :2].T) * (1 << _SUBPIXEL_BITS)
        self._shift = matrix[:, 2] * (1 << _SUBPIXEL_BITS)
        self._scale = float(np.hypot(*matrix[:, 0]))

    def fill(self, points: ArrayLike, colour: Colour) -> None:
        """Fill the polygon of (P, 2) canvas points."""
        cv2.fillPoly(self.frame, [self._pixels(points)], colour, cv2.LINE_AA, _SUBPIXEL_BITS)

    def line(self, points: ArrayLike, colour: Colour, thickness: float) -> None:
        """Draw the open line through (P, 2) canvas points; `thickness` in canvas units, at least one pixel."""
        pixels = max(1, round(thickness * self._scale))
        cv2.polylines(self.frame, [self._pixels(points)], False, colour, pixels, cv2.LINE_AA, _SUBPIXEL_BITS)

    def _pixels(self, points: ArrayLike) -> NDArray[np.int32]:
        return np.rint(np.asarray(points, dtype=np.float64) @ self._turn + self._shift).astype(np.int32)


_ANGLES = np.linspace(0, 2 * np.pi, 28, endpoint=False)
_CIRCLE = np.column_stack([np.cos(_ANGLES), np.sin(_ANGLES)])


def ellipse(x: float, y: float, half_width: float, half_height: float) -> Floats:
    """Return an upright ellipse as a polygon, (28, 2)."""
    return _CIRCLE * (half_width, half_height) + (x, y)


def band(x: Floats, upper: Floats, lower: Floats) -> Floats:
    """Return the polygon between two lines over the same (P,) places: (2 P, 2)."""
    return np.concatenate([np.column_stack([x, upper]), np.column_stack([x, lower])[::-1]])


def smooth_outline(points: ArrayLike, stiff_from: int | None = None) -> Floats:
    """Return the closed outline through `points` and their mirror image about the canvas's middle.

    Args:
        points: (P, 2) distances from the middle and heights, from the top middle to the bottom middle.
        stiff_from: index from which the points are joined by straight lines instead of a curve.
    """
    half = np.asarray(points, dtype=np.float64)
    curved = half[:stiff_from]
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(curved, axis=0).T))])
    dense = PchipInterpolator(along, curved)(np.linspace(0, along[-1], 40))
    right = np.concatenate([dense, half[len(curved) :]])
    left = right[-2:0:-1] * (-1, 1)
    return np.add(np.concatenate([right, left]), (MIDDLE, 0))


def brow_line(identity: Identity) -> tuple[float, float]:
    """Return the heights of brow centres and nose centre for which the alignment's similarity is the identity.

    A similarity fitted to symmetric points has scale sum(template * face) / sum(face^2), centroids removed. Wide-set
    brows need a longer nose for that scale to be one: 2 * b * B + D * d * 2 / 3 = 2 * b^2 + d^2 * 2 / 3, solved for d.
    """
    half_brows = identity.brow_distance
    constant = 3 * half_brows * (half_brows - _TEMPLATE_HALF_BROWS)
    drop = (_TEMPLATE_DROP + (_TEMPLATE_DROP**2 - 4 * constant) ** 0.5) / 2
    return _TEMPLATE_CENTROID_Y - drop / 3, _TEMPLATE_CENTROID_Y + 2 * drop / 3
