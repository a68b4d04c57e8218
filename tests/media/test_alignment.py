from pathlib import Path

import numpy as np
import pytest

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.media.alignment import align, alignment_matrices, paste_back
from patch_region import patch_region

ORACLE = np.load(Path(__file__).parents[1] / "fixtures" / "faces_oracle.npz")
POINTS = np.array([[60.0, 50.0], [100.0, 47.0], [81.0, 70.0]])


def smooth_picture(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    channels = [np.sin(rows / 17 + phase) * np.cos(columns / 23 - phase) for phase in (0, 1, 2)]
    return (127 + 100 * np.stack(channels, axis=-1)).astype(np.uint8)


@pytest.mark.parametrize("resolution", [256, 512])
def test_matrices_match_the_reference_frame_by_frame(resolution: int) -> None:
    matrices = alignment_matrices(ORACLE["landmarks"], resolution)
    assert matrices.dtype == np.float64
    assert np.abs(matrices - ORACLE[f"matrices_{resolution}"]).max() < 1e-3


def test_mirrored_points_are_turned_and_not_mirrored() -> None:
    matrix = alignment_matrices(POINTS[None, [1, 0, 2]], 256)[0]
    assert np.linalg.det(matrix[:, :2]) > 0


def test_points_that_coincide_are_refused() -> None:
    with pytest.raises(BadMedia, match="must differ"):
        alignment_matrices(np.ones((1, 3, 2)), 64)


def test_align_matches_the_reference_within_two_levels() -> None:
    face = align(ORACLE["image"], ORACLE["matrix"], 64)
    difference = np.abs(face.astype(int) - ORACLE["face"])
    assert difference.max() <= 2
    assert difference.mean() < 0.1


def test_paste_back_matches_the_reference_but_for_a_few_pixels_of_the_seam() -> None:
    pasted = paste_back(ORACLE["image"], ORACLE["generated"], ORACLE["matrix"])
    difference = np.abs(pasted.astype(int) - ORACLE["restored"])
    assert difference.max() <= 6
    assert (difference > 1).sum() <= 30


@pytest.mark.parametrize(
    "shift", [(0, 0), (-70, -40), (60, 60), (400, 0)], ids=["inside", "top left", "bottom right", "out of frame"]
)
def test_pixels_outside_the_patch_are_untouched_and_most_inside_change(shift: tuple[int, int]) -> None:
    frame = smooth_picture(140, 160)
    before = frame.copy()
    matrix = alignment_matrices(POINTS[None] + shift, 64)[0]
    pasted = paste_back(frame, np.full((64, 64, 3), 255, np.uint8), matrix)
    region = patch_region(matrix, 64, frame.shape)
    assert (frame == before).all()
    assert (pasted[~region] == frame[~region]).all()
    changed = (pasted != frame).any(axis=-1)
    assert changed.any() == (shift != (400, 0))
    assert changed.sum() >= 0.75 * region.sum()


def test_where_the_face_leaves_the_frame_the_cut_out_is_grey() -> None:
    matrix = alignment_matrices(POINTS[None] + 1000, 64)[0]
    assert (align(np.zeros((50, 50, 3), np.uint8), matrix, 64) == 127).all()
