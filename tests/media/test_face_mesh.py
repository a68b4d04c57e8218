import math

import numpy as np
import pytest

from lipsync_lightning.media import face_mesh
from lipsync_lightning.media.face_mesh import (
    FaceFinder,
    Rectangle,
    alignment_points,
    anchor_centres,
    decode,
    merge_overlapping,
    rectangle_around,
)


def row(score: float, left: float, top: float, side: float) -> np.ndarray:
    return np.array([score, left, top, left + side, top + side, left, top, left + side, top])


def test_anchors_run_along_rows_and_share_cells() -> None:
    short, full = anchor_centres(128, ((8, 2), (16, 6))), anchor_centres(192, ((4, 1),))
    assert (len(short), len(full)) == (896, 2304)
    assert short[:4].tolist() == [[4, 4], [4, 4], [12, 4], [12, 4]]
    assert short[512:518].tolist() == [[8, 8]] * 6
    assert full[48].tolist() == [2, 6]


def test_decoding_adds_the_anchor_and_sorts_by_score() -> None:
    regressors = np.zeros((3, 16), np.float32)
    regressors[:, 2:4] = (20, 10)
    regressors[2, :8] = (1, 2, 20, 10, -5, -1, 5, -1)
    anchors = np.array([[10.0, 10.0], [50.0, 50.0], [100.0, 60.0]])
    rows = decode(regressors, np.array([0.0, -3.0, 2.0]), anchors)
    assert rows[:, 0] == pytest.approx([1 / (1 + math.exp(-2)), 0.5])
    assert rows[0, 1:].tolist() == [91, 57, 111, 67, 95, 59, 105, 59]


def test_overlapping_boxes_become_one_and_distant_ones_stay() -> None:
    assert merge_overlapping(np.zeros((0, 9))).shape == (0, 9)
    merged = merge_overlapping(np.stack([row(0.9, 10, 10, 20), row(0.8, 100, 10, 20), row(0.6, 12, 10, 20)]))
    assert merged[:, 0].tolist() == [0.9, 0.8]
    assert merged[0, 1] == pytest.approx((0.9 * 10 + 0.6 * 12) / 1.5)
    assert merged[1, 1] == 100


def test_the_square_is_half_as_large_again_and_turned_like_the_eyes() -> None:
    square = rectangle_around(np.array([10.0, 20.0, 50.0, 100.0]), np.array([[20.0, 40.0], [40.0, 60.0]]))
    assert (square.x, square.y, square.side) == (30, 60, 120)
    assert square.angle == pytest.approx(math.pi / 4)


def test_points_of_a_crop_go_back_to_where_they_were_in_the_frame() -> None:
    square = Rectangle(x=60, y=50, side=48, angle=0.3)
    frame = np.zeros((100, 120, 3), np.uint8)
    frame[56:59, 69:72] = 255
    crop = square.crop(frame, 192).astype(float).sum(axis=2)
    rows, columns = np.mgrid[:192, :192]
    spot = np.array([(crop * columns).sum(), (crop * rows).sum()]) / crop.sum()
    to_frame = square.to_frame(192)
    assert to_frame[:, :2] @ spot + to_frame[:, 2] == pytest.approx([70, 57], abs=0.1)


def test_alignment_points_are_brows_and_nose() -> None:
    mesh = np.repeat(np.arange(468.0)[:, None], 2, axis=1)
    assert alignment_points(mesh)[:, 0] == pytest.approx([82.2, 311.8, 124.0])


@pytest.mark.parametrize(("offset", "num_looks"), [(0, 1), (9, 2)])
def test_a_mesh_far_from_where_it_was_looked_for_is_looked_for_again(
    monkeypatch: pytest.MonkeyPatch, offset: float, num_looks: int
) -> None:
    shown: list[Rectangle] = []

    def mesh_in(finder: FaceFinder, frame: np.ndarray, square: Rectangle) -> tuple[np.ndarray, float]:
        shown.append(square)
        third = square.side / 3
        mesh = np.random.default_rng(0).uniform(-third, third, (468, 2))
        mesh[0], mesh[1], mesh[[33, 263]] = -third, third, [[-third / 2, 0], [third / 2, 0]]
        return mesh + np.array([square.x, square.y]) + offset, 1.0

    monkeypatch.setattr(face_mesh, "Network", lambda name: None)
    monkeypatch.setattr(FaceFinder, "_mesh_in", mesh_in)
    FaceFinder().mesh(np.zeros((10, 10, 3), np.uint8), Rectangle(x=50, y=50, side=60, angle=0))
    assert len(shown) == num_looks
