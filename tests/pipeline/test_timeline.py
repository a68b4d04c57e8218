from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.media.video import TimedFrame
from lipsync_lightning.pipeline.timeline import timeline

STEP = Fraction(1, 25)


@dataclass
class Numbered:
    """A video whose frames are their numbers."""

    num_frames: int
    readings: int = 0

    def forwards(self) -> Iterator[TimedFrame]:
        self.readings += 1
        return (TimedFrame(np.array(n), n * STEP, STEP) for n in range(self.num_frames))

    def backwards(self) -> Iterator[TimedFrame]:
        return (TimedFrame(np.array(self.num_frames - 1 - n), n * STEP, STEP) for n in range(self.num_frames))


def shown(num_frames: int, num_heard: float, length: str, extend: str = "pingpong") -> list[int]:
    plan = timeline([STEP] * num_frames, Fraction(num_heard) * STEP, length, extend)
    images = [int(image) for image in plan.images(Numbered(num_frames))]
    assert len(plan.times_s) == len(images) + 1
    assert np.concatenate(plan.legs).tolist() == images
    return images


def test_a_video_shows_its_frames_whatever_the_sounds_length():
    assert shown(4, 9, "video") == shown(4, 2, "video") == shown(4, 9, "shortest") == [0, 1, 2, 3]
    assert shown(4, 2, "shortest") == shown(4, 2, "audio") == [0, 1]


@pytest.mark.parametrize(
    ("extend", "expected"),
    [
        ("pingpong", [0, 1, 2, 2, 1, 0, 0, 1]),
        ("loop", [0, 1, 2, 0, 1, 2, 0, 1]),
        ("freeze", [0, 1, 2, 2, 2, 2, 2, 2]),
    ],
)
def test_a_short_video_lasts_as_long_as_the_sound(extend: str, expected: list[int]):
    assert shown(3, 8, "audio", extend) == expected
    assert shown(3, 7, "audio", extend) == expected[:7]
    assert shown(3, 7.5, "audio", extend) == expected


@pytest.mark.parametrize("extend", ["pingpong", "loop", "freeze"])
def test_a_photo_is_read_once_and_shown_as_long_as_the_sound(extend: str):
    source = Numbered(1)
    plan = timeline([STEP], Fraction(2), "audio", extend)
    assert [int(image) for image in plan.images(source)] == [0] * 50
    assert source.readings == 1
    assert plan.scenes([0]) == [range(50)]


def test_a_variable_rate_keeps_every_frames_time_and_the_end_is_the_sounds():
    durations = [STEP, 50 * STEP, STEP]
    plan = timeline(durations, Fraction(3), "audio", "pingpong")
    assert plan.times_s == [0, STEP, 51 * STEP, 52 * STEP, 53 * STEP, 3]


def test_nothing_looks_across_a_cut_or_a_jump_to_the_beginning():
    cut = timeline([STEP] * 6, 9 * STEP, "audio", "loop")
    assert cut.scenes([0, 4]) == [range(4), range(4, 6), range(6, 9)]
    there_and_back = timeline([STEP] * 6, 12 * STEP, "audio", "pingpong")
    assert there_and_back.scenes([0, 4]) == [range(4), range(4, 8), range(8, 12)]


def test_names_and_sounds_that_mean_nothing_are_refused():
    for length, extend, words in (("long", "loop", "length=long"), ("audio", "bounce", "extend=bounce")):
        with pytest.raises(BadConfig, match=words):
            timeline([STEP], STEP, length, extend)
    with pytest.raises(BadConfig, match="the sound has no length"):
        timeline([STEP], Fraction(0), "audio", "loop")
