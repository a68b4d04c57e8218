from typing import Any

import numpy as np
import pytest
import torch

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data.samples import (
    FaceSamples,
    HeldoutSyncNetSamples,
    Samples,
    SyncNetSamples,
    UNetSamples,
    WholeFaces,
    spread_starts,
    target_and_reference,
    usable_frames,
)
from lipsync_lightning.errors import ClipTooShort
from lipsync_lightning.media.clips import decode_planes
from lipsync_lightning.media.mel import log_mel, mel_window
from lipsync_lightning.models.audio_encoder import LogMelAudioEncoder
from tiny_media import sound_of
from tiny_shards import members_of

REAL_CLIP = ClipSpec(num_frames=16, fps=25, resolution=32, sample_rate_hz=16000, mel_hz=80, num_mels=80)
LOUD = range(20, 23)


def shard_sample(num_frames: int, sound: np.ndarray | None = None) -> dict[str, Any]:
    """Return a clip: frame k has its number's brightness, the sound is loud while the frames of LOUD are shown."""
    members = members_of(num_frames, sound_of(num_frames, loud=LOUD) if sound is None else sound)
    return {"__key__": "d/clip/0000", "__url__": "train/000000.tar", **members}


@pytest.fixture
def unet_samples(tiny_clip: ClipSpec) -> UNetSamples:
    encoder = LogMelAudioEncoder(num_tokens=3, columns_per_token=1, sample_rate_hz=16000, mel_hz=80, num_mels=80)
    return UNetSamples(clip=tiny_clip, audio_encoder=encoder, windows_per_clip=6, mask="released")


@pytest.fixture
def syncnet_samples(tiny_clip: ClipSpec) -> SyncNetSamples:
    return SyncNetSamples(clip=tiny_clip, windows_per_clip=4, min_gap_frames=5, sees=WholeFaces())


def frame_numbers(frames: torch.Tensor) -> list[int]:
    return [round((float(frame.float().median()) - 20) / 3) for frame in frames]


def test_frames_are_those_of_the_window_and_equal_decoding_from_the_start(
    unet_samples: UNetSamples, tiny_clip: ClipSpec
):
    sample = shard_sample(40)
    (straight,) = decode_planes(sample["mp4"], [0], 40)
    for window in unet_samples(sample, np.random.default_rng(1), range(6)):
        first = window["first_frame"]
        assert frame_numbers(window["frames"]) == list(range(first, first + tiny_clip.num_frames))
        expected = torch.from_numpy(straight[first : first + tiny_clip.num_frames])
        assert torch.equal(window["frames"], expected)


def test_every_nth_frame_of_the_same_windows_has_its_own_sound(unet_samples: UNetSamples, tiny_clip: ClipSpec):
    sample = shard_sample(40)
    thin = UNetSamples(
        clip=tiny_clip, audio_encoder=unet_samples.audio_encoder, windows_per_clip=6, mask="released", every_nth_frame=3
    )
    pairs = zip(*(kind(sample, np.random.default_rng(1), range(6)) for kind in (unet_samples, thin)), strict=True)
    for whole, thinned in pairs:
        for key in ("frames", "reference", "heard"):
            assert torch.equal(thinned[key], whole[key][::3])
        assert torch.equal(thinned["mel"], whole["mel"])


def test_face_samples_are_windows_of_a_clip_with_the_mask(tiny_clip: ClipSpec):
    samples = FaceSamples(clip=tiny_clip, windows_per_clip=2, mask="mouth")
    assert [samples.num_windows(length) for length in (3, 4, 40)] == [0, 2, 2]
    sample = {key: value for key, value in shard_sample(9).items() if key != "flac"}
    starts = set()
    for seed in range(40):
        both = samples(sample, np.random.default_rng(seed), range(2))
        (window,) = samples(sample, np.random.default_rng(seed), range(1, 2))
        assert window["first_frame"] == both[1]["first_frame"]
        starts.add(first := window["first_frame"])
        assert frame_numbers(window["frames"]) == list(range(first, first + 4))
    assert starts == set(range(6))
    assert samples.same_for_all["keep_mask"].shape == (1, tiny_clip.resolution, tiny_clip.resolution)


def test_mel_and_audio_tokens_are_those_heard_during_the_target(unet_samples: UNetSamples, tiny_clip: ClipSpec):
    windows = [
        window for seed in range(8) for window in unet_samples(shard_sample(40), np.random.default_rng(seed), range(6))
    ]
    heard = 0
    for window in windows:
        first = window["first_frame"]
        loud = [first + offset in LOUD for offset in range(tiny_clip.num_frames)]
        near = [first + offset in range(LOUD.start - 1, LOUD.stop + 1) for offset in range(tiny_clip.num_frames)]
        loudest_token = window["heard"].amax(dim=(1, 2))
        assert all(value > 1 for value, is_loud in zip(loudest_token, loud, strict=True) if is_loud)
        assert all(value < -1 for value, is_near in zip(loudest_token, near, strict=True) if not is_near)
        columns = window["mel"][0].amax(dim=0)
        columns_of_frame = [columns[round(k * 3.2) : round((k + 1) * 3.2)] for k in range(tiny_clip.num_frames)]
        assert all(part.max() > 1 for part, is_loud in zip(columns_of_frame, loud, strict=True) if is_loud)
        assert all(part.max() < -2 for part, is_near in zip(columns_of_frame, near, strict=True) if not is_near)
        heard += any(loud)
    assert 0 < heard < len(windows)


def test_syncnet_windows_keep_their_distance_and_heldout_ones_have_the_sound_around_them(
    syncnet_samples: SyncNetSamples, tiny_clip: ClipSpec
):
    sample = shard_sample(40)
    mel = log_mel(torch.from_numpy(sound_of(40, loud=LOUD)))
    heldout_samples = HeldoutSyncNetSamples(
        clip=tiny_clip, windows_per_clip=4, min_gap_frames=5, sees=WholeFaces(), max_offset_frames=5
    )
    windows, plain = (
        [window for seed in range(4) for window in samples(sample, np.random.default_rng(seed), range(4))]
        for samples in (heldout_samples, syncnet_samples)
    )
    assert min(np.diff(sorted(window["first_frame"] for window in plain[:4]))) >= 5
    num_whole = 0
    for window, same in zip(windows, plain, strict=True):
        assert all(torch.equal(window[key], same[key]) for key in ("frames", "mel"))
        around, first = window["mel_around"], window["first_frame"]
        assert frame_numbers(window["frames"])[0] == first
        torch.testing.assert_close(window["mel"], mel_window(mel, first, tiny_clip), atol=0.1, rtol=0)
        assert around.shape == (11, 1, 80, tiny_clip.mel_columns)
        if 5 <= first <= 40 - 4 - 5:
            expected = torch.stack([mel_window(mel, first + offset, tiny_clip) for offset in range(-5, 6)])
            torch.testing.assert_close(around, expected, atol=0.1, rtol=0)
            num_whole += 1
        else:
            assert around.isnan().all()
    assert 0 < num_whole < 16


@pytest.mark.parametrize("num_frames", [8, 9, 23])
def test_a_clip_gives_as_many_windows_as_it_says_and_those_that_are_wanted(
    unet_samples: UNetSamples, syncnet_samples: SyncNetSamples, num_frames: int
):
    sample = shard_sample(num_frames)
    for samples in (unet_samples, syncnet_samples):

        def starts(wanted: range, samples: Samples = samples) -> list[int]:
            return [window["first_frame"] for window in samples(sample, np.random.default_rng(2), wanted)]

        num_windows = samples.num_windows(num_frames)
        apart = [starts(range(number, number + 1)) for number in range(num_windows)]
        assert [[start] for start in starts(range(num_windows))] == apart


def test_a_clip_with_less_sound_than_its_frames_promise_is_refused(syncnet_samples: SyncNetSamples):
    with pytest.raises(ClipTooShort, match="the sound has"):
        syncnet_samples(shard_sample(40, sound_of(6)), np.random.default_rng(0), range(4))


@pytest.mark.parametrize("clip", [REAL_CLIP, ClipSpec(**(REAL_CLIP.as_dict() | {"num_frames": 5, "fps": 30}))])
def test_every_frame_with_a_whole_mel_window_is_used_and_no_other(clip: ClipSpec):
    assert usable_frames(32, REAL_CLIP) == 32, "just two windows with all their sound are enough"
    for num_frames in range(clip.num_frames, 90):
        mel = log_mel(torch.zeros(clip.num_samples(num_frames)))
        usable = usable_frames(num_frames, clip)
        if usable >= clip.num_frames:
            mel_window(mel, usable - clip.num_frames, clip)
        if usable < num_frames:
            with pytest.raises(ClipTooShort):
                mel_window(mel, usable - clip.num_frames + 1, clip)


def test_target_and_reference_cover_all_places_and_both_orders(tiny_clip: ClipSpec):
    rng = np.random.default_rng(0)
    pairs = {target_and_reference(10, tiny_clip, rng) for _ in range(500)}
    assert pairs == {(a, b) for a in range(7) for b in range(7) if abs(a - b) >= 4}


@pytest.mark.parametrize(("num_frames", "count"), [(4, 1), (13, 2), (14, 3), (40, 3)])
def test_spread_starts_keep_the_gap_and_stay_inside(num_frames: int, count: int):
    drawn = [spread_starts(num_frames - 4, count, 5, np.random.default_rng(seed)) for seed in range(200)]
    assert {len(starts) for starts in drawn} == {count}
    assert all(np.diff(sorted(starts)).min(initial=5) >= 5 for starts in drawn)
    every = [start for starts in drawn for start in starts]
    assert (min(every), max(every)) == (0, num_frames - 4)
