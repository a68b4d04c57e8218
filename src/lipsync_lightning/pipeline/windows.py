"""A video in windows of the length that the U-Net has seen: aligned faces out of the frames, and new ones into them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import cast

import numpy as np

from lipsync_lightning.media.alignment import Aligner, Points, align, paste_back


@dataclass(frozen=True)
class PlacedFrame:
    """One frame of the input video."""

    frame: np.ndarray  # (H, W, 3), uint8
    matrix: np.ndarray | None  # (2, 3), from image pixels to the aligned face; None where no face was found


@dataclass(frozen=True)
class Window:
    """Successive frames, as many as a clip has or, at the end of the video, fewer."""

    placed: list[PlacedFrame]
    heard: list[int]  # which of them each place of the clip shows; none, if no face was found
    faces: np.ndarray  # (T, R, R, 3), uint8, of those frames


def placed_frames(
    frames: Iterable[np.ndarray], points_of: Callable[[np.ndarray], Points | None], resolution: int
) -> Iterator[PlacedFrame]:
    """Yield every frame with its alignment. Where the face is lost, the alignment starts afresh when it returns."""
    aligner = Aligner(resolution=resolution)
    for frame in frames:
        points = points_of(frame)
        if points is None:
            aligner = Aligner(resolution=resolution)
        yield PlacedFrame(frame, None if points is None else aligner.matrix(points))


def aligned_windows(frames: Iterator[PlacedFrame], num_frames: int, resolution: int) -> Iterator[Window]:
    """Yield the frames in windows. One with too few faces is filled up with its last: clips have one length only."""
    while placed := list(islice(frames, num_frames)):
        found = [index for index, each in enumerate(placed) if each.matrix is not None]
        heard = found + found[-1:] * (num_frames - len(found))
        faces = {i: align(placed[i].frame, cast(np.ndarray, placed[i].matrix), resolution) for i in found}
        yield Window(placed, heard, np.stack([faces[i] for i in heard]) if heard else np.empty(0, np.uint8))


def with_new_faces(window: Window, faces: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the window's frames with the faces (T, R, R, 3) pasted in; those without a face as they are."""
    new_faces = dict(zip(window.heard[::-1], faces[::-1], strict=True))  # of a frame that was repeated, the first
    for index, placed in enumerate(window.placed):
        yield placed.frame if placed.matrix is None else paste_back(placed.frame, new_faces[index], placed.matrix)
