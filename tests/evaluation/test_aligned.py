import numpy as np
import pytest
import torch
from einops import rearrange

from lipsync_lightning.errors import ClipTooShort
from lipsync_lightning.evaluation.aligned import spoken, temporal_error, whole_windows
from lipsync_lightning.media.masks import keep_mask
from lipsync_lightning.models.audio_encoder import LogMelAudioEncoder
from lipsync_lightning.pipeline.lipsync import LipSyncPipeline


@pytest.fixture
def pipeline(make_unet, tiny_autoencoder, ddim_velocity, tiny_clip) -> LipSyncPipeline:
    unet = make_unet("none")
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # past the layers that start at zero
    width = unet.config["cross_attention_dim"]
    encoder = LogMelAudioEncoder(
        num_tokens=3,
        columns_per_token=1,
        sample_rate_hz=tiny_clip.sample_rate_hz,
        mel_hz=tiny_clip.mel_hz,
        num_mels=width,
    )
    return LipSyncPipeline(unet.eval(), tiny_autoencoder, encoder, ddim_velocity, tiny_clip.as_dict(), 2, 1.5)


@pytest.fixture
def faces(tiny_clip) -> np.ndarray:
    return np.random.default_rng(1).integers(
        0, 256, (3 * tiny_clip.num_frames, tiny_clip.resolution, tiny_clip.resolution, 3), np.uint8
    )


def speech(seed: int) -> np.ndarray:
    return (0.2 * np.random.default_rng(seed).standard_normal(16000)).astype(np.float32)


def test_only_what_the_mask_leaves_out_is_made_and_it_follows_the_sound(pipeline, faces, tiny_clip):
    one, again, other = (spoken(pipeline, faces, speech(seed), seed=0) for seed in (1, 1, 2))
    kept = keep_mask(tiny_clip.resolution).numpy() == 1
    assert one.shape == faces.shape
    assert np.array_equal(one[:, kept], faces[:, kept])
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_no_window_is_shown_its_own_mouth(pipeline, faces, tiny_clip):
    window = tiny_clip.num_frames
    hole = keep_mask(tiny_clip.resolution).numpy() == 0
    changed = faces.copy()
    changed[window : 2 * window, hole] = 255 - changed[window : 2 * window, hole]
    before, after = (spoken(pipeline, each, speech(1), seed=0) for each in (faces, changed))
    assert np.array_equal(before[window : 2 * window], after[window : 2 * window])
    assert not np.array_equal(before[2 * window :], after[2 * window :])  # which is shown the window before it


def test_frames_that_fill_no_window_are_left_out_and_one_window_is_too_few():
    assert whole_windows(125, 16, "a.mp4") == 112
    with pytest.raises(ClipTooShort, match=r"a\.mp4 has 31 frames, 32 are needed"):
        whole_windows(31, 16, "a.mp4")


def test_the_temporal_error_sees_flicker_and_stillness_and_no_constant_error():
    real = rearrange(np.arange(0, 80, 10, dtype=np.uint8), "t -> t 1 1 1") + np.zeros((8, 64, 64, 3), np.uint8)
    flicker = real.copy()
    flicker[::2] += 20
    assert temporal_error(real, real, "released") == 0
    assert temporal_error(real + 30, real, "released") == 0
    assert temporal_error(np.zeros_like(real), real, "released") == 10
    assert temporal_error(flicker, real, "released") == 20
    flicker[:, keep_mask(64, "mouth").numpy() == 0] = real[:, keep_mask(64, "mouth").numpy() == 0]
    assert temporal_error(flicker, real, "mouth") == 0
