"""A scene in windows of the length that the U-Net has seen, and the aligned faces out of its frames."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np
from torch import Tensor

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.media.alignment import align
from lipsync_lightning.pipeline.reference import Reference


@dataclass(frozen=True, eq=False)
class Turn:
    """Successive frames of a scene on which one person speaks."""

    frames: range  # of the scene
    matrices: np.ndarray  # (F, 2, 3), from pixels of the frame to the aligned face
    weights: np.ndarray  # (F,), how much of the new mouth is seen, above 0 to 1
    audio: Callable[[Sequence[int]], Tensor]  # tokens (T, A, D) of frames of the scene

    def matrix(self, frame: int) -> np.ndarray:
        return self.matrices[frame - self.frames.start]


@dataclass(frozen=True)
class Window:
    """As many frames of a turn as a clip has; of a shorter turn the last is repeated."""

    turn: Turn
    frames: list[int]  # of the scene
    reference: list[int]  # of the scene: what shows the U-Net the person


@dataclass(frozen=True)
class Batch:
    """Windows that are painted together, and what was read for them."""

    windows: list[Window]
    faces: list[np.ndarray]  # (T, R, R, 3), uint8, of each window
    references: list[np.ndarray]  # likewise
    images: list[np.ndarray]  # frames, (H, W, 3) uint8, that follow those of the batch before
    finished: int  # frames of the scene that no later window changes


def windows_of(turns: Sequence[Turn], size: int, overlap: int, reference: Reference) -> list[Window]:
    """Return the windows of some turns, by their first frames; the last of a turn ends with it.

    Args: overlap: frames that successive windows of a turn share, at least.
    """
    windows = []
    for turn in turns:
        last = max(turn.frames.start, turn.frames.stop - size)
        for first in [*range(turn.frames.start, last, size - overlap), last]:
            frames = [min(frame, turn.frames[-1]) for frame in range(first, first + size)]
            windows.append(Window(turn, frames, reference(turn.frames, frames)))
    return sorted(windows, key=lambda window: window.frames[0])


def batches(
    images: Iterator[np.ndarray], num_frames: int, windows: Sequence[Window], resolution: int, at_a_time: int
) -> Iterator[Batch]:
    """Yield a scene of `num_frames` images; windows come `at_a_time` as soon as their frames were read."""
    turns, place = list(dict.fromkeys(window.turn for window in windows)), 0
    size = len(windows[0].frames) if windows else num_frames
    aligned: dict[tuple[Turn, int], np.ndarray] = {}

    def read(stop: int) -> list[np.ndarray]:
        nonlocal place
        found = list(islice(images, max(0, stop - place)))
        if len(found) < stop - place:
            raise BadMedia("the video has fewer frames than when it was looked at; leave it alone while it is read")
        for image in found:
            for turn in turns:
                if place in turn.frames:
                    aligned[turn, place] = align(image, turn.matrix(place), resolution)
            place += 1
        return found

    groups: list[list[Window]] = []
    for window in windows:  # those of a group lie close together, for frames between them are held in memory
        if not groups or len(groups[-1]) == at_a_time or window.frames[0] - groups[-1][0].frames[0] >= size * at_a_time:
            groups.append([])
        groups[-1].append(window)
    for group, following in pairwise([*groups, [], []]):
        stop = max((window.frames[-1] + 1 for window in group), default=num_frames)
        while stop - place > size * at_a_time:  # nobody speaks for a while
            yield Batch([], [], [], read(place + size), group[0].frames[0] if group else stop)
        found = read(stop)
        faces = [np.stack([aligned[window.turn, frame] for frame in window.frames]) for window in group]
        shown = [np.stack([aligned[window.turn, frame] for frame in window.reference]) for window in group]
        yield Batch(group, faces, shown, found, following[0].frames[0] if following else num_frames)
        needed = following[0].frames[0] - size if following else num_frames
        aligned = {key: face for key, face in aligned.items() if key[1] >= needed}
