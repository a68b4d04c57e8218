"""Film strips: a few frames of several videos, one below the other."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.files import write_atomically

GAP = 2  # pixels between pictures
GAP_COLOUR = 255


def film_strip(rows: Sequence[np.ndarray], num_columns: int = 8) -> np.ndarray:
    """Return one picture (H', W', 3), uint8: a row for each video, the same evenly spaced moments in each.

    Args:
        rows: videos (T, H, W, 3), uint8 RGB, all of the same shape, such as real, masked and generated.
        num_columns: moments shown, the first and the last frame among them; fewer where the videos are shorter.
    """
    num_frames = len(rows[0])
    moments = np.linspace(0, num_frames - 1, min(num_columns, num_frames)).round().astype(int)
    return stacked([_joined([video[moment] for moment in moments], axis=1) for video in rows])


def stacked(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Return pictures (H, W, 3) of one size as one, the first at the top, with a gap between each two."""
    return _joined(rows, axis=0)


def strip_rows(strip: np.ndarray, num_rows: int) -> list[np.ndarray]:
    """Return the rows of a film strip, (H, W', 3) each, the top one first: the inverse of `stacked`.

    Raises: BadMedia, if a strip of so many rows cannot be of this height.
    """
    height, rest = divmod(len(strip) + GAP, num_rows)
    if rest or height <= GAP:
        raise BadMedia(f"a picture {len(strip)} pixels high is no film strip of {num_rows} rows; validate again")
    return [strip[row * height : (row + 1) * height - GAP] for row in range(num_rows)]


def save_png(path: Path | str, image: np.ndarray) -> None:
    """Write an (H, W, 3) uint8 RGB picture, whole or not at all; missing folders are made."""
    _, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    write_atomically(Path(path), encoded.tobytes())


def read_png(path: Path | str) -> np.ndarray:
    """Return a picture file as (H, W, 3) uint8 RGB. Raises: BadMedia, if it is not one."""
    image = cv2.imread(str(path))
    if image is None:
        raise BadMedia(f"{path} is not a picture; delete it, the next validation writes others")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _joined(pictures: Sequence[np.ndarray], axis: int) -> np.ndarray:
    behind = [(0, GAP if each == axis else 0) for each in range(3)]
    with_gap = [np.pad(picture, behind, constant_values=GAP_COLOUR) for picture in pictures[:-1]]
    return np.concatenate([*with_gap, pictures[-1]], axis)
