"""Film strips: a few frames of several videos, one below the other."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from lipsync_lightning.paths import write_atomically

GAP = 2  # pixels between pictures
GAP_COLOUR = 255


def film_strip(rows: Sequence[np.ndarray], num_columns: int = 8) -> np.ndarray:
    """Return one picture (H', W', 3), uint8: a row for each video, the same evenly spaced moments in each.

    Args:
        rows: videos (T, H, W, 3), uint8 RGB, all of the same shape, such as real, masked and generated.
        num_columns: moments shown, the first and the last frame among them; fewer where the videos are shorter.
    Raises: ValueError, if there is no frame or the videos differ in shape or are not uint8.
    """
    shapes = {(row.shape, str(row.dtype)) for row in rows}
    if len(shapes) != 1 or rows[0].ndim != 4 or rows[0].shape[3] != 3 or rows[0].dtype != np.uint8 or len(rows[0]) == 0:
        raise ValueError(f"a film strip takes videos of one shape (T, H, W, 3) uint8 with T at least 1, got {sorted(shapes, key=str)}")
    num_frames, height, width, _ = rows[0].shape
    moments = np.linspace(0, num_frames - 1, min(num_columns, num_frames)).round().astype(int)
    strip = np.full((len(rows) * (height + GAP) - GAP, len(moments) * (width + GAP) - GAP, 3), GAP_COLOUR, np.uint8)
    for line, video in enumerate(rows):
        for column, moment in enumerate(moments):
            top, left = line * (height + GAP), column * (width + GAP)
            strip[top : top + height, left : left + width] = video[moment]
    return strip


def save_png(path: Path | str, image: np.ndarray) -> None:
    """Write an (H, W, 3) uint8 RGB picture, whole or not at all; missing folders are made."""
    _, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    write_atomically(Path(path), encoded.tobytes())
