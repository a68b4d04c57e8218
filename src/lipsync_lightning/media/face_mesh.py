"""Find the faces of a frame, and the points of one, with MediaPipe's detectors and 468-point mesh, on one core."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from scipy.special import expit

from lipsync_lightning.media.face_networks import face_network_path

# Mesh points whose means are the alignment points: left brow, right brow (as in the picture), nose.
_ALIGNMENT_POINTS = ([70, 63, 105, 66, 107], [336, 296, 334, 293, 300], [5, 129, 358, 4])

# MediaPipe's published graphs (Apache-2.0): sizes, strides, thresholds and the rectangle around a face.
_MESH_SIDE = 192
_EYE_CORNERS = [33, 263]  # outer ones
_INNER_LIPS = [13, 14]  # middle of the upper and of the lower lip, where they meet
_RECTANGLE_SCALE = 1.5
_SMALLEST_SCORE = 0.5
SAME_FACE_OVERLAP = 0.3
_FACING_SIDE, _FACING_SCALE = 128, 1.25  # of the picture in which a face is seen to be upright, and the room around it
# How far the mesh may end from the square it was looked for in, as a part of the side.
_LARGEST_DIFFERENCE = 0.05


@dataclass(frozen=True, kw_only=True)
class Rectangle:
    """A turned square in a frame: centre and side in pixels, angle in radians (clockwise as seen)."""

    x: float
    y: float
    side: float
    angle: float

    def to_frame(self, crop_side: int) -> np.ndarray:
        """Return the map (2, 3) from the pixels of a crop of this square to the frame's pixels."""
        scale = self.side / crop_side
        cos, sin = math.cos(self.angle) * scale, math.sin(self.angle) * scale
        middle = crop_side / 2
        return np.array([[cos, -sin, self.x - (cos - sin) * middle], [sin, cos, self.y - (sin + cos) * middle]])

    def difference(self, other: "Rectangle") -> float:
        """Return by how much place or size differ, whichever more, as a part of this square's side."""
        return max(math.hypot(self.x - other.x, self.y - other.y), abs(self.side - other.side)) / self.side

    def crop(self, frame: np.ndarray, crop_side: int) -> np.ndarray:
        """Return this square of the frame, (crop_side, crop_side, 3) uint8, upright; black outside the frame."""
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(frame, self.to_frame(crop_side), (crop_side, crop_side), flags=flags)


@dataclass(frozen=True)
class Detection:
    """One face: score in [0, 1], box (left, top, right, bottom), and the square to look for its mesh in."""

    score: float
    box: np.ndarray
    square: Rectangle


def rectangle_around(box: np.ndarray, eyes: np.ndarray) -> Rectangle:
    """Return the square half as large again as `box` (left, top, right, bottom), turned so that the eyes are level."""
    left, top, right, bottom = map(float, box)
    across, down = eyes[1] - eyes[0]
    side = _RECTANGLE_SCALE * max(right - left, bottom - top)
    return Rectangle(x=(left + right) / 2, y=(top + bottom) / 2, side=side, angle=math.atan2(down, across))


def box_of_mesh(mesh: np.ndarray) -> np.ndarray:
    """Return left, top, right and bottom, (4,), of a mesh (468, 2)."""
    return np.concatenate([mesh.min(axis=0), mesh.max(axis=0)])


def rectangle_of_mesh(mesh: np.ndarray) -> Rectangle:
    """Return the square in which the face of a mesh (468, 2) is looked for in the next frame."""
    return rectangle_around(box_of_mesh(mesh), mesh[_EYE_CORNERS])


def anchor_centres(side: int, grids: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return the anchors' centres in pixels of a square input, (anchors, 2) x, y, row by row, a cell's together.

    Args: grids: stride in pixels and anchors per cell.
    """
    rows = []
    for stride, per_cell in grids:
        x, y = np.meshgrid(*[(np.arange(side // stride) + 0.5) * stride] * 2)
        rows.append(np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), per_cell, axis=0))
    return np.concatenate(rows)


def decode(regressors: np.ndarray, logits: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Return the boxes that score high enough, best first, in input pixels.

    Args:
        regressors: (anchors, 16), offsets from the anchor: box centre and size, then six points, first the eyes.
        logits, anchors: (anchors,) and (anchors, 2), from `anchor_centres`.
    Returns: (boxes, 9): score, left, top, right, bottom, first eye x, y, second eye x, y.
    """
    scores = expit(logits.astype(np.float64))
    kept = np.flatnonzero(scores >= _SMALLEST_SCORE)
    kept = kept[np.argsort(-scores[kept])]
    centres = regressors[kept, :2] + anchors[kept]
    halves = regressors[kept, 2:4] / 2
    eyes = regressors[kept, 4:8] + np.tile(anchors[kept], 2)
    return np.column_stack([scores[kept], centres - halves, centres + halves, eyes])


def overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return intersection over union, (n,), of a box (4,) with each of (n, 4): left, top, right, bottom."""
    shared = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    intersection = np.prod(np.maximum(shared, 0), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return intersection / (np.prod(box[2:] - box[:2]) + areas - intersection)


def merge_overlapping(rows: np.ndarray) -> np.ndarray:
    """Return one row per face: rows of `decode` that overlap are averaged by score; the best score stands.

    Source: BlazeFace (arXiv 1907.05047), section 3.3.
    """
    merged = []
    while len(rows):
        same = overlap(rows[0, 1:5], rows[:, 1:5]) > SAME_FACE_OVERLAP
        same[0] = True
        values = np.average(rows[same, 1:], axis=0, weights=rows[same, 0])
        merged.append(np.concatenate([rows[0, :1], values]))
        rows = rows[~same]
    return np.array(merged).reshape(-1, 9)


class Network:
    """A tflite network on one thread."""

    def __init__(self, name: str) -> None:
        self._interpreter = Interpreter(model_path=str(face_network_path(name)), num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._outputs = [details["index"] for details in self._interpreter.get_output_details()]

    def __call__(self, picture: np.ndarray) -> list[np.ndarray]:
        """Return every output for one float32 picture (H, W, 3), the batch dimension dropped."""
        self._interpreter.set_tensor(self._input, picture[None])
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index)[0] for index in self._outputs]


class FaceDetector:
    """One of MediaPipe's two detectors: short range for large faces, full range for small ones."""

    def __init__(self, model: str, side: int, grids: Sequence[tuple[int, int]]) -> None:
        self._side = side
        self._anchors = anchor_centres(side, grids)
        self._network = Network(model)

    def detect(self, frame: np.ndarray) -> list[Detection]:
        """Return the faces in a frame, (H, W, 3) uint8 RGB, best score first."""
        height, width = frame.shape[:2]
        whole = Rectangle(x=width / 2, y=height / 2, side=float(max(height, width)), angle=0.0)
        regressors, logits = self._network(whole.crop(frame, self._side).astype(np.float32) / 127.5 - 1)
        rows = merge_overlapping(decode(regressors, logits[:, 0], self._anchors))
        points = rows[:, 1:].reshape(-1, 4, 2) * (whole.side / self._side) + whole.to_frame(self._side)[:, 2]
        boxes, eyes = points[:, :2].reshape(-1, 4), points[:, 2:]
        squares = [rectangle_around(*found) for found in zip(boxes, eyes, strict=True)]
        return [Detection(*found) for found in zip(rows[:, 0].tolist(), boxes, squares, strict=True)]


class FaceFinder:
    """Both detectors and the mesh: where faces are in a frame, and the mesh of one face near where it was."""

    def __init__(self) -> None:
        self._detectors = [
            FaceDetector("face_detection_short_range", 128, ((8, 2), (16, 6))),
            FaceDetector("face_detection_full_range_sparse", 192, ((4, 1),)),
        ]
        self._network = Network("face_landmark")

    def detections(self, frame: np.ndarray) -> list[Detection]:
        """Return what both detectors see, best score first (a large box may be false); one face may be there twice."""
        found = [detection for detector in self._detectors for detection in detector.detect(frame)]
        return sorted(found, key=lambda detection: -detection.score)

    def upright(self, frame: np.ndarray, square: Rectangle) -> Rectangle:
        """Return the square, turned half about if the face in it is upside down.

        Detectors and mesh see an upright face in one that is not, its chin being the forehead; but less surely.
        """
        wide = replace(square, side=_FACING_SCALE * square.side)
        turned = replace(wide, angle=wide.angle + math.pi)
        as_is, about = (
            max((found.score for found in self._detectors[0].detect(each.crop(frame, _FACING_SIDE))), default=0.0)
            for each in (wide, turned)
        )
        return replace(square, angle=turned.angle) if about > as_is else square

    def mesh(self, frame: np.ndarray, square: Rectangle) -> np.ndarray | None:
        """Return the points of the face in or near a square, (468, 2) float64 in pixels of the frame; None without one.

        A mesh not found well inside its square (a detection, a fast move) is a tenth of a face off: look twice.
        """
        points, score = self._mesh_in(frame, square)
        around = rectangle_of_mesh(points)
        if score >= _SMALLEST_SCORE and around.difference(square) >= _LARGEST_DIFFERENCE:
            points, score = self._mesh_in(frame, around)
        return points if score >= _SMALLEST_SCORE else None

    def _mesh_in(self, frame: np.ndarray, square: Rectangle) -> tuple[np.ndarray, float]:
        """Return the points in pixels of the frame, and the score in [0, 1] that there is a face in the square."""
        points, score = self._network(square.crop(frame, _MESH_SIDE).astype(np.float32) / 255)
        to_frame = square.to_frame(_MESH_SIDE)
        in_crop = points.reshape(-1, 3)[:, :2].astype(np.float64)
        return in_crop @ to_frame[:, :2].T + to_frame[:, 2], float(expit(score).item())


def alignment_points(mesh: np.ndarray) -> np.ndarray:
    """Return left brow, right brow and nose centre, (3, 2), of a mesh (468, 2)."""
    return np.stack([mesh[indices].mean(axis=0) for indices in _ALIGNMENT_POINTS])


def mouth_opening(mesh: np.ndarray) -> float:
    """Return the gap between the inner lips of a mesh (468, 2) as a share of the distance of the outer eye corners."""
    gap, eyes = (float(np.linalg.norm(np.subtract(*mesh[pair]))) for pair in (_INNER_LIPS, _EYE_CORNERS))
    return gap / eyes
