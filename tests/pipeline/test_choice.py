from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drawn_people import SIDE, beside, drawn, timed
from lipsync_lightning.errors import BadConfig, NoFace
from lipsync_lightning.media.people import MeshPeople
from lipsync_lightning.pipeline.choice import choose, contact_sheet
from lipsync_lightning.pipeline.shots import Shot, Track, find_shots

FRAMES = 10


def track(x: float, side: float = 50, seen: range = range(FRAMES), opening: np.ndarray | None = None) -> Track:
    """Someone at (x, 40)."""
    sides = np.where(np.isin(np.arange(FRAMES), seen), np.float32(side), np.nan)
    points = np.array([[x - 10, 35], [x + 10, 35], [x, 50]])
    shown = np.where(np.isfinite(sides)[:, None, None], points, np.nan)
    opening = np.full(FRAMES, np.nan) if opening is None else opening
    return Track(points=shown, side=sides, opening=opening, measured=[None] * FRAMES)


def shots(*people: dict[int, Track]) -> list[Shot]:
    return [
        Shot(first_frame=FRAMES * index, times_s=(FRAMES * index + np.arange(FRAMES)) / 25, people=tracks)
        for index, tracks in enumerate(people)
    ]


TWO = shots({0: track(100, side=40), 1: track(300, side=60, seen=range(5))}, {1: track(100)}, {})


def test_the_largest_of_a_shot_is_so_on_average_and_speaks_by_default():
    assert choose(TWO).people == [0, 1, None]
    assert choose(TWO).told is None
    assert choose(shots({0: track(0, side=40), 1: track(99, side=60)})).people == [1]


@pytest.mark.parametrize("face", [1, "1", "310,40", "290.5, 60@0.1", "100,30@0.5"])
def test_a_number_or_a_place_is_that_person_in_every_shot(face: Any):
    assert choose(TWO, face).people == [1, 1, None]
    assert choose(TWO, face).told is None


def test_a_place_without_a_time_is_on_the_first_frame_with_a_face():
    late = shots({}, {0: track(100, seen=range(3, 10)), 1: track(300, seen=range(6, 10))})
    assert choose(late, "110,40").people == [None, 0]
    with pytest.raises(NoFace, match=r"at 0\.52 s there is 0 at 100,40;"):
        choose(late, "300,40")


@pytest.mark.parametrize(
    ("face", "error", "told"),
    [
        (7, NoFace, "people of this video are 0, 1; faces=list"),
        ("200,40@0", NoFace, "0 at 100,40, 1 at 300,40"),
        ("100,40@1.3", NoFace, r"at 1\.16 s there is nobody"),
        ("100,40@9", BadConfig, "the video lasts 1.2 s"),
        ("left", BadConfig, "must be one of"),
        ("1,2,3", BadConfig, "must be one of"),
        (-1, BadConfig, "must be one of"),
    ],
)
def test_who_is_not_there_is_told_with_who_is(face: Any, error: type[Exception], told: str):
    with pytest.raises(error, match=told):
        choose(TWO, face)


def test_without_anybody_there_is_no_choice():
    with pytest.raises(NoFace, match="no face on any of 20 frames"):
        choose(shots({}, {}))
    with pytest.raises(NoFace):
        contact_sheet([], shots({}))


@pytest.mark.parametrize("sound", [None, np.zeros(48000, np.float32)])
def test_without_sound_the_largest_speaks_and_it_is_told(sound: np.ndarray | None):
    choice = choose(TWO, "speaking", sound)
    assert choice.people == choose(TWO, "largest").people
    assert choice.told is not None
    assert "no sound" in choice.told


@pytest.fixture(scope="module")
def talking() -> list[Shot]:
    """Two people who talk at once, of different things."""
    frames = beside(drawn(0, seconds=2.4), drawn(1, seconds=2.4))
    return list(find_shots(timed(frames), MeshPeople().for_video(Path("video.mp4"))))


@pytest.mark.parametrize("who", [0, 1])
def test_who_speaks_is_whose_mouth_goes_with_the_sound(talking: list[Shot], who: int):
    (speaks,) = choose(talking, "speaking", drawn(who, seconds=2.4).utterance.waveform.astype(np.float32)).people
    assert speaks is not None
    middle = np.nanmean(talking[0].people[speaks].points[..., 0])
    assert (middle > SIDE) == (who == 1)


def test_the_contact_sheet_has_a_row_for_everyone(talking: list[Shot]):
    frames = list(timed(beside(drawn(0, seconds=2.4), drawn(1, seconds=2.4))))
    sheet = contact_sheet(frames, talking)
    assert sheet.shape == (2 * 128 + 2, 128 + 320, 3)
    assert sheet.dtype == np.uint8
    rows = [sheet[:128, :128], sheet[-128:, :128]]
    looks = [
        min((0, 1), key=lambda who: np.abs(np.median(row, (0, 1)) - np.median(drawn(who).frames[0], (0, 1))).sum())
        for row in rows
    ]
    assert sorted(looks) == [0, 1]
    assert (sheet[:128, 128:] > 0).any()
