"""A video as windows of a few frames, each frame with the place of its face."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from lipsync_lightning.media.alignment import Aligner

PointsOfFrame = Callable[[np.ndarray], np.ndarray | None]


@dataclass(frozen=True)
class PlacedFrame:
    """One frame of the input video."""

    frame: np.ndarray  # (H, W, 3), uint8
    matrix: np.ndarray | None  # (2, 3), from image pixels to the aligned face; None where no face was found


def placed_frames(frames: Iterable[np.ndarray], points_of: PointsOfFrame, resolution: int) -> Iterator[PlacedFrame]:
    """Yield every frame with its alignment. Where the face is lost, the alignment starts afresh when it returns."""
    aligner = Aligner(resolution=resolution)
    for frame in frames:
        points = points_of(frame)
        if points is None:
            aligner = Aligner(resolution=resolution)
        yield PlacedFrame(frame, None if points is None else aligner.matrix(points))


def windows(frames: Iterable[PlacedFrame], size: int) -> Iterator[list[PlacedFrame]]:
    """Yield windows of `size` frames; the last one may be shorter, and is never dropped."""
    remaining = iter(frames)
    while window := list(islice(remaining, size)):
        yield window
