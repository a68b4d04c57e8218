from pathlib import Path

import numpy as np
import pytest

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data.diagnosis import MAX_LAG, offset_histogram, sound_duplicates
from lipsync_lightning.shards.reader import ClipIndex
from tiny_media import prepared, sound_of, write_video
from wrong_sound import NUM_CLIPS, all_the_same, index_of, late, swapped, talking_faces, with_sounds

CLIP = ClipSpec(num_frames=4, fps=25, resolution=32, sample_rate_hz=16000, mel_hz=80, num_mels=80)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talking_faces(tmp_path_factory.mktemp("talking faces"), CLIP)


@pytest.fixture
def changed(shards, tmp_path):
    """A function of a change of all sounds: the index of the clips with the changed sounds."""
    return lambda change: index_of(with_sounds(shards, tmp_path, CLIP, change), CLIP)


def break_member(index: ClipIndex, clip: int, member: int) -> None:
    index.places[clip, member, 1] //= 2


def test_right_clips_are_in_step_and_each_has_a_sound_of_its_own(shards):
    index = index_of(shards, CLIP)
    offsets, sound = offset_histogram(index, CLIP, 64), sound_duplicates(index, 64)
    assert offsets.common == offsets.median == 0
    assert offsets.counts[MAX_LAG] >= 0.9 * NUM_CLIPS
    assert offsets.counts.sum() == len(offsets.offsets) == offsets.num_clips == NUM_CLIPS
    assert offsets.fits
    assert offsets.is_clear
    assert 0.3 < offsets.peak < 1
    assert (sound.num_clips, sound.num_shared, sound.silent, sound.num_unreadable) == (NUM_CLIPS, 0, [], 0)


@pytest.mark.parametrize("frames", [6, -6, 13])
def test_a_constant_shift_is_found_to_the_frame(changed, frames):
    offsets = offset_histogram(changed(lambda sounds: [late(sound, frames) for sound in sounds]), CLIP, 64)
    assert offsets.common == offsets.median == -frames
    assert offsets.counts[MAX_LAG - frames] >= 0.9 * NUM_CLIPS
    assert offsets.is_clear
    assert offsets.fits


def test_a_shift_of_its_own_for_each_clip_fits_but_is_not_common(changed):
    shifts = np.array([5 * number % 29 - 14 for number in range(NUM_CLIPS)])
    offsets = offset_histogram(
        changed(lambda sounds: [late(*pair) for pair in zip(sounds, shifts, strict=True)]), CLIP, 64
    )
    assert offsets.fits
    assert not offsets.is_clear
    assert (np.abs(offsets.offsets + shifts) <= 1).mean() >= 0.9


def test_sounds_of_other_clips_fit_at_no_offset(changed):
    index = changed(swapped)
    offsets = offset_histogram(index, CLIP, 64)
    assert not offsets.fits
    assert not offsets.is_clear
    assert abs(offsets.fit - 0.5) < 0.25
    assert sound_duplicates(index, 64).num_shared == 0


def test_one_sound_for_all_is_shared_by_all_and_fits_nobody_better_than_others(changed):
    index = changed(all_the_same)
    assert [len(group) for group in sound_duplicates(index, 64).shared] == [NUM_CLIPS]
    assert offset_histogram(index, CLIP, 64).fit == 0.5


def test_the_same_sound_is_found_cut_elsewhere_quieter_and_with_noise(changed):
    noise = np.random.default_rng(0).normal(size=32000).astype(np.float32)

    def one_sound_three_times(sounds):
        again = 0.3 * np.concatenate([sounds[5][4321:], sounds[6][:4321]]) + 1e-3 * noise
        return [*sounds[:2], sounds[5], *sounds[3:9], again, *sounds[10:]]

    index = changed(one_sound_three_times)
    (group,) = sound_duplicates(index, 64).shared
    assert group == [str(index.keys[number]) for number in (2, 5, 9)]


def test_silence_is_counted_and_is_not_the_same_sound(changed):
    index = changed(lambda sounds: [1e-3 * sounds[0], 0 * sounds[1], *sounds[2:]])
    sound = sound_duplicates(index, 64)
    assert sound.silent == [str(index.keys[0]), str(index.keys[1])]
    assert sound.num_shared == 0
    assert sound.num_clips == NUM_CLIPS


def test_clips_that_cannot_be_read_are_counted(shards):
    index = index_of(shards, CLIP)
    break_member(index, 0, member=1)
    break_member(index, 1, member=0)
    sound, offsets = sound_duplicates(index, 64), offset_histogram(index, CLIP, 64)
    assert (sound.num_unreadable, sound.num_clips) == (2, NUM_CLIPS - 2)
    assert (offsets.num_left_out, offsets.num_clips) == (2, NUM_CLIPS - 2)


def test_no_more_clips_are_read_than_asked_for_and_they_are_spread(shards, monkeypatch):
    index, read = index_of(shards, CLIP), []
    monkeypatch.setattr(index, "read", lambda clip: read.append(clip) or ClipIndex.read(index, clip))
    assert sound_duplicates(index, 3).num_clips == offset_histogram(index, CLIP, 3).num_clips == 3
    assert read == [0, 16, 31] * 2


def test_of_clips_that_are_all_too_short_no_offset_is_told(tmp_path):
    for person in range(2):
        write_video(tmp_path / "raw" / f"{person}.mp4", 14, sound_of(14, loud=range(person, 14, 3)))
    prepared(tmp_path / "raw", tmp_path / "shards", CLIP, sources_per_shard=2)
    offsets = offset_histogram(index_of(tmp_path / "shards", CLIP), CLIP, 64)
    assert (offsets.num_clips, offsets.num_left_out, offsets.counts.sum()) == (0, 2, 0)
    assert np.isnan([offsets.median, offsets.fit, offsets.foreign_peak]).all()
    assert not offsets.fits
    assert not offsets.is_clear


def test_a_mouth_that_does_not_move_agrees_with_nothing(tmp_path):
    still = [np.full((64, 64, 3), 90, np.uint8)] * 50
    for person in range(2):
        write_video(tmp_path / "raw" / f"{person}.mp4", 50, sound_of(50, loud=range(person, 50, 3)), frames=still)
    prepared(tmp_path / "raw", tmp_path / "shards", CLIP, sources_per_shard=2, max_seconds=3.0)
    offsets = offset_histogram(index_of(tmp_path / "shards", CLIP), CLIP, 64)
    assert offsets.num_clips == 2
    assert np.abs(offsets.curve).max() == 0
