"""Where a face is turned upright and cut out of a frame, and where a new one is put back."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

from lipsync_lightning.errors import BadMedia

# Where the two brow centres and the nose centre lie on the canvas, and the canvas itself (width, height), for a
# 256-pixel face: LatentSync (arXiv 2412.09262), public code.
_DRAWN_AT = 256
_TEMPLATE = np.array([[17.0, 20.0], [58.0, 20.0], [37.5, 40.0]]) * 2.8
_CANVAS = (210, 280)
_KEPT_BIAS = 0.2
_OUTSIDE_FRAME = 127.0
# The reference fills with 127 on its [-1, 1] scale here, which ends as white; the blend gives it almost no weight.
_OUTSIDE_FACE = 255 * (127 / 2 + 0.5)
# Area is in frame pixels; the feather is a twentieth of the face's side.
_SIDES_PER_FEATHER = 20
_MARGIN = 3  # pixels of the frame around the canvas
# The fade at a mask's edge: a part of the face's side, in pixels at least and at most.
_SIDES_PER_EDGE, _EDGE = 80, (2.0, 8.0)
_GREY = 3  # pixels of the face within the frame's edge that what lies outside shines into; they are left alone
_SHRUNK = 0.7  # pixels of the frame for one of the face, below which it is averaged before it is placed

# Left brow, right brow and nose centre of one face, (3, 2) float64 x, y in pixels; left and right as in the picture.
Points = np.ndarray


class Aligner:
    """Turns the points of successive frames into matrices, remembering what the smoothing needs."""

    def __init__(self, *, resolution: int) -> None:
        self._template = _TEMPLATE * (resolution / _DRAWN_AT)
        self._bias: np.ndarray | None = None

    def matrix(self, points: Points) -> np.ndarray:
        """Return the map from the next frame's pixels to the canvas, (2, 3) float64: see `alignment_matrices`.

        Raises: BadMedia, if the points coincide.
        """
        centre, template_centre = points.mean(axis=0), self._template.mean(axis=0)
        spread, template_spread = np.std(points - centre, ddof=1), np.std(self._template - template_centre, ddof=1)
        if not spread > 0:
            raise BadMedia(f"alignment points must differ, got {points.tolist()}; correct or drop that frame's points")
        normal, template_normal = (points - centre) / spread, (self._template - template_centre) / template_spread
        # The rotation (never a reflection) that best carries the points onto the template: Kabsch (1976).
        left, _, right = np.linalg.svd(normal.T @ template_normal)
        rotation = (left @ np.diag([1.0, np.sign(np.linalg.det(left @ right))]) @ right).T
        linear = rotation * (template_spread / spread)
        bias = template_normal[2] - normal[2]
        self._bias = bias if self._bias is None else _KEPT_BIAS * self._bias + (1 - _KEPT_BIAS) * bias
        return np.column_stack([linear, template_centre - linear @ centre + self._bias])


def side_of(points: Points) -> float:
    """Return the side of the square of the frame that a face is aligned from, in pixels, of its points (3, 2)."""
    spreads = [np.std(each - each.mean(axis=0), ddof=1) for each in (points, _TEMPLATE)]
    return float(_DRAWN_AT * spreads[0] / spreads[1])


def alignment_matrices(points: np.ndarray, resolution: int) -> np.ndarray:
    """Return, for each frame of one video, the map from its pixels to the canvas of the upright face.

    The canvas is 210/256 of the resolution wide and 280/256 high; `align` resizes it to a square.

    Args:
        points: (T, 3, 2), left brow, right brow and nose centre of successive frames, x, y in pixels.
        resolution: side of the square face, in pixels.
    Returns: (T, 2, 3) float64.
    Raises: BadMedia, if the three points of a frame coincide.
    Source: LatentSync (arXiv 2412.09262), public code: rotation by singular values, scale by the ratio of the spreads;
        the nose's residual, in units of the spread and smoothed over frames (1/5 old, 4/5 new), is added to the offset
        as pixels.
    """
    aligner = Aligner(resolution=resolution)
    return np.array([aligner.matrix(frame) for frame in np.asarray(points, dtype=np.float64)]).reshape(-1, 2, 3)


def align(frame: np.ndarray, matrix: np.ndarray, resolution: int) -> np.ndarray:
    """Return the upright face, cut out of a frame and resized to a square.

    Args:
        frame: (H, W, 3) uint8.
        matrix: (2, 3), from `alignment_matrices` or `Aligner` at the same resolution.
    Returns: (resolution, resolution, 3) uint8; grey 127 where the canvas leaves the frame.
    """
    rows, columns, to_canvas = _window(matrix, resolution, frame.shape)
    # In float, because the reference interpolates in float and cuts the fraction off.
    source = frame[rows, columns].astype(np.float32)
    canvas = cv2.warpAffine(source, to_canvas, _canvas_size(resolution), borderValue=(_OUTSIDE_FRAME,) * 3)
    return cv2.resize(canvas.astype(np.uint8), (resolution, resolution), interpolation=cv2.INTER_LANCZOS4)


def paste_back(
    frame: np.ndarray, face: np.ndarray, matrix: np.ndarray, mask: np.ndarray | None = None, weight: float = 1.0
) -> np.ndarray:
    """Return the frame with a new face where the old one was cut out.

    Args:
        frame: (H, W, 3) uint8; left as it is.
        face: (res, res, 3) uint8, upright.
        matrix: (2, 3), the one that `align` was given, at resolution `res`.
        mask: (res, res) float32, more than a half where the face is generated: only those pixels are replaced, and the
            new ones fade in over a few pixels inside its edge. None: the whole canvas, as published.
        weight: in [0, 1], how much of the new face is seen.
    Returns: (H, W, 3) uint8; every pixel outside the mask, or outside the canvas, is that of `frame`.
    """
    if mask is None:
        return _paste_canvas(frame, face, matrix, weight)
    pasted = frame.copy()
    inside = mask > 0.5
    if not (weight > 0 and inside.any()):
        return pasted
    to_frame = _square_to_frame(matrix, face.shape[0])
    (left, right), (top, bottom) = (np.flatnonzero(inside.any(axis=axis))[[0, -1]] for axis in (0, 1))
    rows, columns = _box(to_frame, (left, top, right, bottom), frame.shape)
    lengths = np.linalg.norm(to_frame[:, :2], axis=0)  # of a pixel of the face in the frame, across and down
    feather = float(np.clip(lengths.mean() * face.shape[0] / _SIDES_PER_EDGE, *_EDGE))

    mask = mask.astype(np.float32)
    if lengths.min() < _SHRUNK:  # else pixels would be skipped
        size = np.maximum(1, np.rint(np.minimum(1, lengths / _SHRUNK) * face.shape[0])).astype(int)
        face, mask = (cv2.resize(each, size.tolist(), interpolation=cv2.INTER_AREA) for each in (face, mask))
        to_frame = _resized(to_frame, inside.shape[0] / size)
    to_frame[:, 2] -= columns.start, rows.start
    behind = frame[rows, columns]
    size = (behind.shape[1], behind.shape[0])
    replaced = (cv2.warpAffine(mask, to_frame, size) > 0.5).astype(np.uint8)
    grey = int(np.ceil(_GREY * lengths.max()))
    replaced[: max(0, grey - rows.start)] = 0
    replaced[max(0, frame.shape[0] - grey - rows.start) :] = 0
    replaced[:, : max(0, grey - columns.start)] = 0
    replaced[:, max(0, frame.shape[1] - grey - columns.start) :] = 0
    depth = cv2.distanceTransform(replaced, cv2.DIST_L2, 3)
    new = np.minimum(depth * (weight / (feather + 1)), weight, dtype=np.float32)
    placed = cv2.warpAffine(face, to_frame, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    pasted[rows, columns] = cv2.blendLinear(placed, behind, new, 1 - new)
    return pasted


def _paste_canvas(frame: np.ndarray, face: np.ndarray, matrix: np.ndarray, opacity: float) -> np.ndarray:
    """Paste the whole canvas, as published.

    Source: LatentSync (arXiv 2412.09262), public code: warp by the inverse, erode, feather with a Gaussian whose size
        follows the face's area, blend, cut the fraction off.
    """
    width, height = _canvas_size(face.shape[0])
    rows, columns, to_canvas = _window(matrix, face.shape[0], frame.shape)
    to_frame = cv2.invertAffineTransform(to_canvas)
    behind = frame[rows, columns]
    size = (behind.shape[1], behind.shape[0])

    # How much of each pixel the canvas covers, and how much of the new face it takes.
    covered = cv2.erode(cv2.warpAffine(np.ones((height, width), np.float32), to_frame, size), np.ones((2, 2)))
    feather = int(covered.sum() ** 0.5) // _SIDES_PER_FEATHER
    inner = cv2.erode(covered, np.ones((max(1, 2 * feather),) * 2))
    weight = cv2.GaussianBlur(inner, (2 * feather + 1,) * 2, 0.3 * (feather - 1) + 0.8)

    # Resized in 8 bits, five times as fast as in float, and blended in place: fresh memory costs more than arithmetic.
    square = torch.from_numpy(rearrange(face, "h w c -> 1 c h w"))
    canvas = F.interpolate(square, size=(height, width), mode="bicubic", antialias=True)
    canvas = np.ascontiguousarray(rearrange(canvas.numpy(), "1 c h w -> h w c"), dtype=np.float32)
    placed = cv2.warpAffine(canvas, to_frame, size, borderValue=(_OUTSIDE_FACE,) * 3)
    np.minimum(placed, 255, out=placed)
    placed *= cv2.merge([covered] * 3)
    placed -= behind
    placed *= cv2.merge([weight * opacity] * 3)
    placed += behind
    pasted = frame.copy()
    pasted[rows, columns] = placed
    return pasted


def _canvas_size(resolution: int) -> tuple[int, int]:
    width, height = _CANVAS
    return width * resolution // _DRAWN_AT, height * resolution // _DRAWN_AT


def _window(matrix: np.ndarray, resolution: int, shape: tuple[int, ...]) -> tuple[slice, slice, np.ndarray]:
    """Return the rows and columns of a frame around the canvas, and the matrix for pixels counted from there."""
    rows, columns = _box(cv2.invertAffineTransform(matrix), (0, 0, *_canvas_size(resolution)), shape)
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ [columns.start, rows.start]
    return rows, columns, moved


def _box(to_frame: np.ndarray, box: tuple[int, int, int, int], shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return the rows and columns of a frame that hold a box (left, top, right, bottom) and a margin, at least one."""
    left, top, right, bottom = box
    corners = np.array([[left, top, 1], [right, top, 1], [left, bottom, 1], [right, bottom, 1]], dtype=np.float64)
    placed = corners @ to_frame.T
    limit = np.array([shape[1], shape[0]])
    low = np.clip(np.floor(placed.min(axis=0)).astype(int) - _MARGIN, 0, limit - 1)
    high = np.clip(np.ceil(placed.max(axis=0)).astype(int) + _MARGIN + 1, low + 1, limit)
    return slice(low[1], high[1]), slice(low[0], high[0])


def _square_to_frame(matrix: np.ndarray, resolution: int) -> np.ndarray:
    """Return the map (2, 3) from the pixels of the aligned square to the frame's: `align` backwards."""
    return _resized(cv2.invertAffineTransform(matrix), np.array(_canvas_size(resolution)) / resolution)


def _resized(to_frame: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return a map (2, 3) for a picture of pixels `scale` (across, down) as large; (0, 0) is the middle of one."""
    return np.column_stack([to_frame[:, :2] * scale, to_frame[:, 2] + to_frame[:, :2] @ (scale / 2 - 0.5)])
