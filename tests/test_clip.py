from dataclasses import replace

import pytest

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import ClipMismatch

RELEASED = ClipSpec(num_frames=16, fps=25, resolution=256, sample_rate_hz=16000, mel_hz=80, num_mels=80)


def test_sixteen_frames_are_heard_in_fifty_two_mel_columns():
    assert RELEASED.mel_columns == 52


@pytest.mark.parametrize(("frame", "column"), [(0, 0), (1, 3), (2, 6), (5, 16), (24, 76), (25, 80)])
def test_a_window_starts_at_the_mel_column_that_sounds_when_its_first_frame_appears(frame, column):
    assert RELEASED.mel_start(frame) == column


@pytest.mark.parametrize("change", [{"colour": 3}, {"fps": None}])
def test_a_dict_with_other_keys_is_refused_and_its_source_named(change):
    values = {name: value for name, value in {**RELEASED.as_dict(), **change}.items() if value is not None}
    with pytest.raises(ClipMismatch, match=r"shard 7: a clip needs the keys .*fps.* found"):
        ClipSpec.from_dict(values, "shard 7")


def test_every_difference_between_two_specs_is_named():
    other = ClipSpec.from_dict({**RELEASED.as_dict(), "fps": 30, "resolution": 512}, "here")
    with pytest.raises(ClipMismatch, match=r"the data and the run .*fps 25 against 30, resolution 256 against 512"):
        RELEASED.require_equal(other, "the data", "the run")


def test_recordings_are_the_same_whatever_windows_are_cut_from_them():
    RELEASED.require_same_recording(replace(RELEASED, num_frames=25, mel_hz=100, num_mels=64), "the data", "the run")


@pytest.mark.parametrize("name", ["fps", "resolution", "sample_rate_hz"])
def test_recordings_that_differ_are_refused(name):
    other = replace(RELEASED, **{name: 3})
    with pytest.raises(ClipMismatch, match=rf"the data and the run .*: {name} {getattr(RELEASED, name)} against 3;"):
        RELEASED.require_same_recording(other, "the data", "the run")
