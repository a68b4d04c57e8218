from pathlib import Path

import cv2
import numpy as np
import pytest

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.media.alignment import align, alignment_matrices, paste_back
from lipsync_lightning.media.masks import keep_mask
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


def generated(resolution: int) -> np.ndarray:
    return 1 - keep_mask(resolution).numpy()


def face_of(width: float, middle: tuple[float, float], degrees: float, resolution: int) -> np.ndarray:
    """Return the matrix of a face so wide, there in the frame, turned."""
    turn = np.deg2rad(degrees)
    to_frame = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = (POINTS - POINTS.mean(axis=0)) * (width / 75) @ to_frame.T + middle
    return alignment_matrices(points[None], resolution)[0]


def mask_region(matrix: np.ndarray, resolution: int, shape: tuple[int, ...], room: int) -> np.ndarray:
    """Return where the released mask lies in a frame, (H, W) bool, and `room` pixels around it (less, if negative)."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    on_canvas = np.stack([columns, rows, np.ones(shape[:2])], axis=-1) @ matrix.T
    size = np.array([210 * resolution // 256, 280 * resolution // 256])
    in_square = ((on_canvas + 0.5) * resolution / size - 0.5).astype(np.float32)
    placed = cv2.remap(generated(resolution), in_square[..., 0], in_square[..., 1], cv2.INTER_LINEAR) > 0.5
    change = cv2.dilate if room > 0 else cv2.erode
    return change(placed.astype(np.uint8), np.ones((2 * abs(room) + 1,) * 2)) > 0


@pytest.mark.parametrize("resolution", [64, 256, 512])
@pytest.mark.parametrize("width", [40, 200, 900])
@pytest.mark.parametrize(
    ("place", "degrees"), [((0.5, 0.5), 0), ((0.5, 0.4), 137), ((0.02, 0.9), -20), ((1.0, 0.0), 30), ((9, 9), 0)]
)
def test_with_a_mask_only_the_masks_pixels_change_whatever_the_faces_size_and_place(
    resolution: int, width: int, place: tuple[float, float], degrees: float
) -> None:
    frame = np.random.default_rng(0).integers(0, 200, (400, 500, 3), dtype=np.uint8)
    before, matrix = frame.copy(), face_of(width, (500 * place[0], 400 * place[1]), degrees, resolution)
    face = np.full((resolution, resolution, 3), 255, np.uint8)
    pasted = paste_back(frame, face, matrix, generated(resolution))
    assert (frame == before).all()
    kept = ~mask_region(matrix, resolution, frame.shape, room=1)
    assert (pasted[kept] == frame[kept]).all()
    # Past the fade, nothing is left of the old face, but for a strip where the face leaves the frame.
    inner, strip = mask_region(matrix, resolution, frame.shape, room=-10), 5 * width // resolution + 20
    assert (pasted[strip:-strip, strip:-strip][inner[strip:-strip, strip:-strip]] >= 254).all()
    assert (pasted != frame).any() == (place != (9, 9))


@pytest.mark.parametrize("resolution", [64, 256, 512])
@pytest.mark.parametrize("mask", ["released", "all"])
@pytest.mark.parametrize("middle", [(250, 140), (250, 300), (0, 200)], ids=["inside", "chin out", "left half out"])
def test_a_face_as_it_was_leaves_no_line_in_a_dark_frame(resolution: int, mask: str, middle: tuple[int, int]) -> None:
    frame = np.full((400, 500, 3), 12, np.uint8)
    matrix = face_of(230, middle, 5, resolution)
    region = generated(resolution) if mask == "released" else np.ones((resolution, resolution), np.float32)
    pasted = paste_back(frame, align(frame, matrix, resolution), matrix, region)
    assert np.isin(pasted, [11, 12]).all()  # `align` cuts fractions off


def test_a_face_comes_back_to_where_it_was_cut_out() -> None:
    frame = smooth_picture(400, 500)
    matrix = face_of(210, (250, 150), 12, 256)
    pasted = paste_back(frame, align(frame, matrix, 256), matrix, generated(256))
    assert np.abs(pasted.astype(int) - frame).max() <= 2


def test_a_large_face_in_a_small_place_is_averaged_and_not_picked_at() -> None:
    rows, columns = np.mgrid[:512, :512]
    squares = cv2.merge([((rows // 4 + columns // 4) % 2 * 255).astype(np.uint8)] * 3)
    frame, matrix = np.full((100, 100, 3), 127, np.uint8), face_of(40, (50, 50), 10, 512)
    pasted = paste_back(frame, squares, matrix, generated(512))
    assert np.abs(pasted.astype(int) - 127).max() < 40


@pytest.mark.parametrize("mask", [None, generated(64)], ids=["published", "mask"])
def test_a_weight_fades_the_whole_paste_down_to_the_untouched_frame(mask: np.ndarray | None) -> None:
    frame, matrix = smooth_picture(140, 160), alignment_matrices(POINTS[None], 64)[0]
    face = np.full((64, 64, 3), 255, np.uint8)
    assert (paste_back(frame, face, matrix, mask, weight=0.0) == frame).all()
    half, whole = (paste_back(frame, face, matrix, mask, weight).astype(int) for weight in (0.5, 1.0))
    assert (whole != frame).any()
    assert np.abs(half - (frame + whole) / 2).max() <= 1


def test_a_mask_of_nothing_leaves_the_frame_as_it_is() -> None:
    frame, matrix = smooth_picture(140, 160), alignment_matrices(POINTS[None], 64)[0]
    face = np.full((64, 64, 3), 255, np.uint8)
    assert (paste_back(frame, face, matrix, np.zeros((64, 64), np.float32)) == frame).all()
