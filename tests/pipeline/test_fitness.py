import cv2
import numpy as np
import pytest

from lipsync_lightning.pipeline.fitness import (
    NOT_SEEN,
    Records,
    Thresholds,
    faded,
    measure,
    reasons_of,
    records_of,
    turn_of,
)

SKIN, LIPS, DARK = (205, 160, 140), (165, 80, 85), (60, 40, 35)
MIDDLE, WIDTH = np.array([160.0, 150.0]), 100.0  # between the eyes, and of their outer corners
LIP_POINTS = [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185]
EYE_POINTS = [[70, 63, 105, 66, 107, 33, 133, 145], [336, 296, 334, 293, 300, 263, 362, 374]]


def ring(points: list[int], x: float, y: float, width: float, height: float) -> dict[int, tuple[float, float]]:
    angles = np.linspace(0, 2 * np.pi, len(points), endpoint=False)
    return {p: (x + width * np.cos(a), y + height * np.sin(a)) for p, a in zip(points, angles, strict=True)}


def mesh_of_a_face() -> np.ndarray:
    places = ring(LIP_POINTS, 0, 0.9, 0.3, 0.14) | {234: (-0.75, 0.3), 454: (0.75, 0.3), 1: (0, 0.45)}
    for side, points in zip((-1, 1), EYE_POINTS, strict=True):
        places |= ring(points, side * 0.35, -0.05, 0.2, 0.15)
    mesh = np.zeros((468, 2))
    mesh[list(places)] = np.array(list(places.values()))
    return mesh * WIDTH + MIDDLE


def picture(before: tuple[int, int, int] | None = None, opening: float = 0.0, light: float = 1.0) -> np.ndarray:
    """Return a face: brows, lips, an open mouth, and a disc of a colour before it."""

    def ellipse(x: float, y: float, width: float, height: float, colour: tuple[int, int, int]) -> None:
        middle = np.rint(MIDDLE + np.array([x, y]) * WIDTH).astype(int).tolist()
        cv2.ellipse(frame, middle, (round(width * WIDTH), round(height * WIDTH)), 0, 0, 360, colour, -1)

    frame = np.full((320, 320, 3), SKIN, np.uint8)
    for x in (-0.35, 0.35):
        ellipse(x, -0.15, 0.2, 0.03, DARK)
        ellipse(x, 0.02, 0.1, 0.04, DARK)
    ellipse(0, 0.9, 0.3, 0.14, LIPS)
    if opening:
        ellipse(0, 0.9, 0.2, opening, DARK)
    if before:
        ellipse(0, 0.9, 0.7, 0.5, before)
    return (frame * light).astype(np.uint8)


def known(rows: list[list[float]]) -> Records:
    return records_of(np.full(len(rows), 200.0), rows)


def covered(frames: list[np.ndarray]) -> list[bool]:
    mesh = mesh_of_a_face()
    return (known([measure(frame, mesh) for frame in frames]).covered > 1).tolist()


@pytest.mark.parametrize("degrees", [-70, -40, 0, 25, 60])
def test_the_turn_is_read_off_where_the_nose_is_between_the_sides(degrees: float) -> None:
    turn = np.deg2rad(degrees)
    mesh = np.zeros((468, 2))
    for point, across, forward in ((234, -7.66, -2.44), (454, 7.66, -2.44), (1, 0.0, 7.47)):
        mesh[point] = 50 + 3 * (across * np.cos(turn) + forward * np.sin(turn)), 40
    rolled = mesh @ np.array([[0.0, 1.0], [-1.0, 0.0]])
    assert turn_of(mesh) == pytest.approx(degrees, abs=1)
    assert turn_of(rolled) == pytest.approx(degrees, abs=1)


@pytest.mark.parametrize("light", [1.0, 0.3])
def test_a_speaking_mouth_is_not_covered_in_light_and_in_the_dark(light: float) -> None:
    assert not any(covered([picture(opening=opening, light=light) for opening in (0, 0.02, 0.08, 0.1, 0.05, 0)]))


def test_a_mouth_that_is_never_seen_is_covered_in_every_frame() -> None:
    assert all(covered([picture(before=SKIN)] * 6))


@pytest.mark.parametrize("colour", [SKIN, (30, 30, 32), (235, 235, 230), (40, 70, 150)])
def test_what_comes_before_a_mouth_is_seen_while_it_is_there(colour: tuple[int, int, int]) -> None:
    frames = [picture()] * 5 + [picture(before=colour)] * 4 + [picture()] * 5
    expected = [False] * 5 + [True] * 4 + [False] * 5
    assert covered(frames) == expected


def test_something_of_another_colour_in_the_mouth_is_seen() -> None:
    bitten = picture()
    cv2.circle(bitten, (160, 240), 20, (230, 225, 120), -1)
    assert covered([picture()] * 5 + [bitten] * 3) == [False] * 5 + [True] * 3


def test_a_mouth_outside_the_frame_is_not_judged() -> None:
    records = known([measure(picture(), mesh_of_a_face() + shift) for shift in (900, -900)])
    assert np.isnan(records.mouth).all()
    assert not reasons_of(records, Thresholds()).any()


def test_without_a_mesh_only_the_size_is_known() -> None:
    records = records_of(np.full(6, 128.0), [None] * 6)
    assert np.isnan(records.turn).all()
    assert not reasons_of(records, Thresholds(min_side_px=100)).any()
    assert set(reasons_of(records, Thresholds(min_side_px=130))) == {"the face is smaller than 130 pixels"}


def records(side: list[float], turn: list[float] | None = None) -> Records:
    known = np.zeros(len(side)) if turn is None else np.array(turn)
    return Records(side=np.array(side), turn=known, mouth=np.full((len(side), 5), np.nan))


def test_one_or_two_frames_are_bridged_and_three_are_not() -> None:
    for length, left_alone in ((1, 0), (2, 0), (3, 3)):
        turns = [0.0] * 8 + [80.0] * length + [0.0] * 8
        reasons = reasons_of(records([200] * len(turns), turns), Thresholds())
        assert [index for index, reason in enumerate(reasons) if reason] == list(range(8, 8 + left_alone))
        reasons = reasons_of(records([200] * len(turns), [80 - turn for turn in turns]), Thresholds())
        assert (reasons == "").sum() == left_alone


def test_each_frame_left_alone_has_a_reason_and_a_face_turned_either_way_one() -> None:
    nan = float("nan")
    reasons = reasons_of(records([nan] * 5 + [200] * 15, [nan] * 5 + [0.0] * 5 + [-70] * 5 + [70] * 5), Thresholds())
    turned = "the face is turned away by more than 60 degrees"
    assert reasons.tolist() == [NOT_SEEN] * 5 + [""] * 5 + [turned] * 10


def test_the_paint_fades_before_and_after_what_is_left_alone() -> None:
    painted = np.array([True] * 8 + [False] * 3 + [True] * 3 + [False])
    expected = np.array([6, 6, 6, 5, 4, 3, 2, 1, 0, 0, 0, 1, 2, 1, 0]) / 6
    assert faded(painted, 5) == pytest.approx(expected)
    assert (faded(np.ones(4, bool), 5) == 1).all()
    assert (faded(np.zeros(4, bool), 5) == 0).all()
