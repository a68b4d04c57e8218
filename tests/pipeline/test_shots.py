import tracemalloc
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from drawn_people import SIDE, beside, drawn, timed
from lipsync_lightning.media.people import MeshPeople, PeopleTracker, SeenFace, SidecarPeople
from lipsync_lightning.pipeline.shots import Shot, find_shots
from tiny_media import POINTS, numbered_frames, write_video

ONE, OTHER = drawn(0), drawn(1)


def shots_of(frames: Iterable[np.ndarray], **options: Any) -> list[Shot]:
    return list(find_shots(timed(frames), MeshPeople().for_video(Path("video.mp4")), **options))


def seen_by(shot: Shot) -> dict[int, list[int]]:
    return {person: np.flatnonzero(track.seen).tolist() for person, track in shot.people.items()}


def middle_x(shot: Shot, person: int) -> np.ndarray:
    return shot.people[person].points[:, :, 0].mean(axis=1)


def test_who_is_hidden_for_some_frames_is_himself_afterwards_and_nobody_else_meanwhile():
    frames = beside(ONE, OTHER)
    frames[8:13, :, SIDE:] = (frames[8:13, :, SIDE:] * 0.3 + 0.7 * OTHER.frames[0, 0, 0]).astype(np.uint8)
    frames[8:13, 20:110, SIDE + 20 : 2 * SIDE - 20] = 90
    tracks = [seen_by(shot) for shot in shots_of(frames)]
    alone = [seen_by(shot) for shot in shots_of(beside(ONE, OTHER))]
    assert [set(track) for track in alone] == [{0, 1}]
    right = {person for shot in shots_of(frames) for person in shot.people if np.nanmean(middle_x(shot, person)) > SIDE}
    (hidden,) = right
    frames_seen = [first.first_frame + f for first in shots_of(frames) for f in seen_by(first).get(hidden, [])]
    assert frames_seen == [f for f in range(20) if not 8 <= f < 13]
    assert {person for track in tracks for person in track} == {0, 1}


def test_no_shot_begins_where_somebody_stays_in_place():
    frames = beside(ONE, OTHER)
    frames[8:13, :, SIDE:] = 0
    (shot,) = shots_of(frames)
    assert sorted(map(len, seen_by(shot).values())) == [15, 20]


def test_a_person_has_one_number_in_all_shots_and_is_known_at_another_place_and_size():
    larger = np.stack([cv2.resize(frame, (2 * SIDE, 2 * SIDE)) for frame in drawn(0, clip=1).frames])
    first, second, third = shots_of([*beside(ONE, OTHER), *beside(drawn(2), drawn(3)), *larger])
    left, right = (min(first.people, key=lambda person: sign * np.nanmean(middle_x(first, person))) for sign in (1, -1))
    assert [first.first_frame, second.first_frame, third.first_frame] == [0, 20, 40]
    assert {left, right} == {0, 1}
    assert sorted(second.people) == [2, 3]
    assert list(third.people) == [left]
    assert seen_by(third)[left] == list(range(20))


def test_a_shot_begins_where_a_fade_has_reached_black():
    fading = np.linspace(1, 0, 14)[:, None, None, None]
    dark = (ONE.frames[:14] * fading).astype(np.uint8)
    light_again = (drawn(2).frames[:14] * fading[::-1]).astype(np.uint8)
    frames = [*ONE.frames[:10], *dark, *light_again, *drawn(2).frames[:10]]
    shots = shots_of(frames)
    assert len(shots) == 2
    assert 20 < shots[1].first_frame < 26
    assert [list(shot.people) for shot in shots] == [[0], [1]]


def test_a_turned_face_is_followed_turned_or_not_at_all():
    turned = [shots_of(drawn(person).frames[:, ::-1, ::-1])[0].people for person in range(4)]
    found = [track for people in turned for track in people.values()]
    assert found
    for track in found:
        left_brow, right_brow, nose = np.moveaxis(track.points[track.seen], 1, 0)
        assert (nose[:, 1] < left_brow[:, 1]).all()
        assert (left_brow[:, 0] > right_brow[:, 0]).all()


def test_wide_pixels_are_made_square_before_anyone_is_looked_for():
    narrow = [cv2.resize(frame, (SIDE // 2, SIDE)) for frame in ONE.frames]
    (square,), (wide,) = shots_of(ONE.frames), shots_of(narrow, pixel_aspect=Fraction(2))
    np.testing.assert_allclose(wide.people[0].points * [2, 1], square.people[0].points, atol=3)
    np.testing.assert_allclose(wide.people[0].side, square.people[0].side, rtol=0.05)


def test_what_is_measured_of_a_face_is_kept_with_its_frame():
    def measure(frame: np.ndarray, mesh: np.ndarray) -> tuple[int, bool]:
        return len(mesh), frame.shape == (SIDE, SIDE, 3)

    (shot,) = shots_of([*np.zeros((3, SIDE, SIDE, 3), np.uint8), *ONE.frames[:4]], measure=measure)[-1:]
    track = shot.people[0]
    assert track.measured == [(468, True) if seen else None for seen in track.seen]
    assert np.isfinite(track.opening[track.seen]).all()


def test_people_of_a_sidecar_are_its_lists_and_their_mouths_are_unknown(tmp_path: Path):
    path = write_video(tmp_path / "talk.mp4", 6, None, without_face=range(2, 4))
    (shot,) = find_shots(timed(numbered_frames(6)), SidecarPeople().for_video(path))
    assert seen_by(shot) == {0: [0, 1, 4, 5]}
    np.testing.assert_allclose(shot.people[0].points[0], POINTS, rtol=1e-6)
    assert shot.people[0].side[0] == pytest.approx(32 * 2.54, rel=0.7)
    assert np.isnan(shot.people[0].opening).all()
    np.testing.assert_allclose(shot.times_s, np.arange(6) / 25)


class TwoPeople(PeopleTracker):
    def people(self, frame: np.ndarray) -> dict[int, SeenFace]:
        return {person: SeenFace(POINTS + 9 * person, None) for person in (0, 1)}

    def cut(self) -> dict[int, int]:
        return {0: 0, 1: 1}


def test_an_hour_of_two_people_takes_less_than_100_megabytes():
    num_frames, hour = 2000, 25 * 3600
    frames = timed(np.zeros((4, 4, 3), np.uint8) for _ in range(num_frames))
    tracemalloc.start()
    shots = list(find_shots(frames, TwoPeople(), measure=lambda *_: (0.5, 0.5)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(shots) == 1
    assert peak / num_frames * hour < 100e6
