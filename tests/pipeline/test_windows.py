import numpy as np
import pytest

from lipsync_lightning.media.alignment import alignment_matrices
from lipsync_lightning.pipeline.windows import placed_frames, windows
from tiny_media import POINTS, numbered_frames


@pytest.mark.parametrize("num_frames", [0, 1, 3, 4, 5, 8, 11])
def test_windows_hold_every_frame_once_and_the_rest_is_kept(num_frames: int):
    cut = list(windows(range(num_frames), 4))  # pyright: ignore[reportArgumentType]
    assert [frame for window in cut for frame in window] == list(range(num_frames))
    assert all(len(window) == 4 for window in cut[:-1])


def test_frames_are_placed_as_training_places_them_and_anew_after_a_lost_face():
    points = [POINTS + np.array([k, k * k / 4]) for k in range(8)]
    shown = iter([*points[:5], None, *points[5:]])
    placed = list(placed_frames(numbered_frames(9), lambda frame: next(shown), 32))
    matrices = [each.matrix for each in placed]
    assert [index for index, matrix in enumerate(matrices) if matrix is None] == [5]
    before, after = (np.stack([m for m in part if m is not None]) for part in (matrices[:5], matrices[6:]))
    np.testing.assert_allclose(before, alignment_matrices(np.stack(points[:5]), 32))
    np.testing.assert_allclose(after, alignment_matrices(np.stack(points[5:]), 32))
