"""Where a face is turned upright and cut out of a frame, and where a new one is put back."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

from lipsync_lightning.errors import BadMedia

# Where the two brow centres and the nose centre lie on the canvas, and the canvas itself (width, height), for a 256-pixel face:
# LatentSync (arXiv 2412.09262), public code.
_DRAWN_AT = 256
_TEMPLATE = np.array([[17.0, 20.0], [58.0, 20.0], [37.5, 40.0]]) * 2.8
_CANVAS = (210, 280)
_KEPT_BIAS = 0.2
_OUTSIDE_FRAME = 127.0
# The reference fills with 127 on its [-1, 1] scale here, which ends as white; the blend gives it almost no weight.
_OUTSIDE_FACE = 255 * (127 / 2 + 0.5)
# Area is in frame pixels; the feather is a twentieth of the face's side.
_SIDES_PER_FEATHER = 20


class FacePoints(Protocol):
    """Where the alignment points of a video come from."""

    def for_video(self, path: Path) -> Callable[[np.ndarray], np.ndarray | None]:
        """Return a function to call once per frame of `path`, in order.

        It takes a frame, (H, W, 3) uint8 RGB, and returns left brow, right brow and nose centre (left and right as in the
        picture), (3, 2) float64 x, y in pixels, or None where there is no face.
        """
        ...


class SidecarPoints:
    """The points of one video, read from `<video stem>.json` beside it, key "points": one [[x, y] * 3] or null per frame.

    Raises: BadMedia, if that file is missing or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path).with_suffix(".json")
        self._remaining: Iterator[np.ndarray | None] = iter(self._read())

    def points(self, frame: np.ndarray) -> np.ndarray | None:
        """Return the next frame's points, (3, 2) float64 in pixels; None where there is no face and past the end."""
        return next(self._remaining, None)

    def _read(self) -> list[np.ndarray | None]:
        expected = f'{self.path}: expected JSON with key "points", one [[x, y], [x, y], [x, y]] or null per frame'
        way_out = "write it, or find faces with MeshFacePoints"
        try:
            frames = json.loads(self.path.read_text())["points"]
            points = [None if frame is None else np.array(frame, dtype=np.float64) for frame in frames]
        except FileNotFoundError as error:
            raise BadMedia(f"{expected}; there is no such file; {way_out}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise BadMedia(f"{expected}; found {type(error).__name__} ({error}); {way_out}") from error
        for index, frame in enumerate(points):
            if frame is not None and frame.shape != (3, 2):
                raise BadMedia(f"{expected}; frame {index} has shape {frame.shape}; {way_out}")
        return points


class SidecarFacePoints:
    """Alignment points from a JSON file beside each video."""

    def for_video(self, path: Path) -> Callable[[np.ndarray], np.ndarray | None]:
        """Return a reader of the points of one video, as `FacePoints` says. Raises: BadMedia."""
        return SidecarPoints(path).points


def _canvas_size(resolution: int) -> tuple[int, int]:
    width, height = _CANVAS
    return width * resolution // _DRAWN_AT, height * resolution // _DRAWN_AT


class Aligner:
    """Turns the points of successive frames into matrices, remembering what the smoothing needs."""

    def __init__(self, *, resolution: int) -> None:
        self._template = _TEMPLATE * (resolution / _DRAWN_AT)
        self._bias: np.ndarray | None = None

    def matrix(self, points: np.ndarray) -> np.ndarray:
        """Return the map from the next frame's pixels to the canvas: see `alignment_matrices`.

        Args:
            points: (3, 2), x, y in pixels.
        Returns: (2, 3) float64.
        Raises: BadMedia, if the points coincide.
        """
        centre, template_centre = points.mean(axis=0), self._template.mean(axis=0)
        spread, template_spread = np.std(points - centre, ddof=1), np.std(self._template - template_centre, ddof=1)
        if not spread > 0:
            raise BadMedia(
                f"alignment points must differ, got {np.asarray(points).tolist()}; correct or drop that frame's points"
            )
        normal, template_normal = (points - centre) / spread, (self._template - template_centre) / template_spread
        linear = _rotation(normal, template_normal) * (template_spread / spread)
        offset = template_centre - linear @ centre + self._smoothed(template_normal[2] - normal[2])
        return np.column_stack([linear, offset])

    def _smoothed(self, bias: np.ndarray) -> np.ndarray:
        if self._bias is not None:
            bias = _KEPT_BIAS * self._bias + (1 - _KEPT_BIAS) * bias
        self._bias = bias
        return bias


def _rotation(points: np.ndarray, template: np.ndarray) -> np.ndarray:
    """The rotation (never a reflection) that best carries points onto the template: Kabsch (1976)."""
    left, _, right = np.linalg.svd(points.T @ template)
    handedness = np.sign(np.linalg.det(left @ right))
    return (left @ np.diag([1.0, handedness]) @ right).T


def alignment_matrices(points: np.ndarray, resolution: int) -> np.ndarray:
    """Return, for each frame of one video, the map from its pixels to the canvas of the upright face.

    The canvas is 210/256 of the resolution wide and 280/256 high; `align` resizes it to a square.

    Args:
        points: (T, 3, 2), left brow, right brow and nose centre of successive frames, x, y in pixels.
        resolution: side of the square face, in pixels.
    Returns: (T, 2, 3) float64.
    Raises: BadMedia, if the three points of a frame coincide.
    Source: LatentSync (arXiv 2412.09262), public code: rotation by singular values, scale by the ratio of the spreads; the
        nose's residual, in units of the spread and smoothed over frames (1/5 old, 4/5 new), is added to the offset as pixels.
    """
    aligner = Aligner(resolution=resolution)
    points_of_frames = np.asarray(points, dtype=np.float64)  # a tensor will do as well
    return np.array([aligner.matrix(frame) for frame in points_of_frames], dtype=np.float64).reshape(-1, 2, 3)


def _window(matrix: np.ndarray, resolution: int, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of the frame that hold the canvas with a small margin; at least one pixel each."""
    margin = 3
    width, height = _canvas_size(resolution)
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], dtype=np.float64)
    placed = corners @ cv2.invertAffineTransform(matrix).T
    limit = np.array([shape[1], shape[0]])
    low = np.clip(np.floor(placed.min(axis=0)).astype(int) - margin, 0, limit - 1)
    high = np.clip(np.ceil(placed.max(axis=0)).astype(int) + margin + 1, low + 1, limit)
    return slice(low[1], high[1]), slice(low[0], high[0])


def _moved(matrix: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """The matrix for pixels counted from the window's own corner."""
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ (columns.start, rows.start)
    return moved


def align(frame: np.ndarray, matrix: np.ndarray, resolution: int) -> np.ndarray:
    """Return the upright face, cut out of a frame and resized to a square.

    Args:
        frame: (H, W, 3) uint8.
        matrix: (2, 3), from `alignment_matrices` or `Aligner` at the same resolution.
    Returns: (resolution, resolution, 3) uint8; grey 127 where the canvas leaves the frame.
    """
    rows, columns = _window(matrix, resolution, frame.shape)
    # In float, because the reference interpolates in float and cuts the fraction off.
    source = frame[rows, columns].astype(np.float32)
    border = (_OUTSIDE_FRAME,) * 3
    canvas = cv2.warpAffine(source, _moved(matrix, rows, columns), _canvas_size(resolution), borderValue=border)
    return cv2.resize(canvas.astype(np.uint8), (resolution, resolution), interpolation=cv2.INTER_LANCZOS4)


def _patch_weights(to_canvas: np.ndarray, resolution: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """How much of each pixel the canvas covers, and how much of the new face it takes; both (H, W) float32 in [0, 1]."""
    width, height = _canvas_size(resolution)
    to_frame = cv2.invertAffineTransform(to_canvas)
    covered = cv2.warpAffine(np.ones((height, width), np.float32), to_frame, (shape[1], shape[0]))
    covered = cv2.erode(covered, np.ones((2, 2)))
    feather = int(covered.sum() ** 0.5) // _SIDES_PER_FEATHER
    inner = cv2.erode(covered, np.ones((max(1, 2 * feather),) * 2))
    blur = 2 * feather + 1
    sigma = 0.3 * ((blur - 1) * 0.5 - 1) + 0.8
    return covered, cv2.GaussianBlur(inner, (blur, blur), sigma)


def _on_canvas(face: np.ndarray) -> np.ndarray:
    """The square face (res, res, 3) uint8 resized to the canvas, float32, anti-aliased as the reference does."""
    width, height = _canvas_size(face.shape[0])
    channels_first = torch.from_numpy(rearrange(face, "h w c -> 1 c h w").astype(np.float32))
    canvas = F.interpolate(channels_first, size=(height, width), mode="bicubic", antialias=True)
    return np.ascontiguousarray(rearrange(canvas.numpy(), "1 c h w -> h w c"))


def paste_back(frame: np.ndarray, face: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return the frame with a new face blended in where the old one was cut out.

    Args:
        frame: (H, W, 3) uint8; left as it is.
        face: (res, res, 3) uint8, upright.
        matrix: (2, 3), the one that `align` was given, at resolution `res`.
    Returns: (H, W, 3) uint8; pixels outside `patch_region` are those of `frame`.
    Source: LatentSync (arXiv 2412.09262), public code: warp by the inverse, erode, feather with a Gaussian whose size follows
        the face's area, blend, cut the fraction off.
    """
    resolution = face.shape[0]
    rows, columns = _window(matrix, resolution, frame.shape)
    behind = frame[rows, columns]
    to_canvas = _moved(matrix, rows, columns)
    covered, weight = _patch_weights(to_canvas, resolution, behind.shape[:2])
    to_frame = cv2.invertAffineTransform(to_canvas)
    size = (behind.shape[1], behind.shape[0])
    placed = cv2.warpAffine(_on_canvas(face), to_frame, size, borderValue=(_OUTSIDE_FACE,) * 3)
    placed = np.clip(placed, 0, 255) * covered[..., None]
    pasted = frame.copy()
    pasted[rows, columns] = (weight[..., None] * placed + (1 - weight[..., None]) * behind).astype(np.uint8)
    return pasted


def patch_region(matrix: np.ndarray, resolution: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return which pixels of a frame of `shape` (H, W, ...) `paste_back` may change: (H, W) bool."""
    rows, columns = _window(matrix, resolution, shape)
    window_shape = (rows.stop - rows.start, columns.stop - columns.start)
    _, weight = _patch_weights(_moved(matrix, rows, columns), resolution, window_shape)
    region = np.zeros(shape[:2], dtype=bool)
    region[rows, columns] = weight > 0
    return region
