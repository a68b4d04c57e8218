from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadConfig, ClipTooShort
from lipsync_lightning.media.mel import heard_mel, log_mel, mel_window

ORACLE = np.load(Path(__file__).parents[1] / "fixtures" / "mel_oracle.npz")
CLIP = ClipSpec(num_frames=16, fps=25, resolution=256, sample_rate_hz=16000, mel_hz=80, num_mels=80)


def waveform(part: str) -> Tensor:
    return torch.from_numpy(ORACLE[part].astype(np.float32) / 32768)


def test_log_mel_matches_the_reference_from_the_first_column_to_the_last() -> None:
    head, tail = log_mel(waveform("head")), log_mel(waveform("tail"))
    assert tail.shape == (80, 1 + 6400 // 200)
    assert np.abs(head[:, :30].numpy() - ORACLE["head_mel"]).max() < 2e-4
    assert np.abs(tail[:, -30:].numpy() - ORACLE["tail_mel"]).max() < 2e-4


@pytest.mark.parametrize(("rate", "mel_hz", "num_mels"), [(16000, 100, 40), (8000, 80, 20), (48000, 80, 80)])
def test_other_rates_keep_one_column_per_hop_and_put_a_tone_in_the_same_place(
    rate: int, mel_hz: int, num_mels: int
) -> None:
    tones = (0.5 * torch.sin(2 * torch.pi * hz * torch.arange(rate) / rate) for hz in (300, 3000))
    low, high = (log_mel(tone, sample_rate_hz=rate, mel_hz=mel_hz, num_mels=num_mels) for tone in tones)
    assert low.shape == (num_mels, 1 + mel_hz)
    assert low[:, mel_hz // 2].argmax() < num_mels // 4 < num_mels // 2 < high[:, mel_hz // 2].argmax()


def test_rates_that_miss_whole_samples_and_stereo_are_refused() -> None:
    with pytest.raises(BadConfig, match="80 columns per second at 11025 Hz"):
        log_mel(torch.zeros(100), sample_rate_hz=11025)
    with pytest.raises(ValueError, match="mono"):
        log_mel(torch.zeros(2, 100))


@pytest.mark.parametrize(("first_frame", "first_column"), [(0, 0), (1, 3), (5, 16), (17, 54)])
def test_a_window_starts_at_the_clips_first_frame(first_frame: int, first_column: int) -> None:
    mel = torch.arange(120.0).expand(80, -1)
    window = mel_window(mel, first_frame, CLIP)
    assert window.shape == (1, 80, 52)
    assert window[0, 0, 0] == first_column


def test_a_window_that_the_sound_does_not_fill_is_refused() -> None:
    with pytest.raises(ClipTooShort, match="columns 16 to 68, the sound has 67"):
        mel_window(torch.zeros(80, CLIP.mel_start(5) + CLIP.mel_columns - 1), 5, CLIP)


def test_what_is_heard_of_a_clip_is_a_window_of_the_whole_sound_s_log_mel() -> None:
    sound = torch.randn(16000)
    mel = log_mel(sound)
    for first_frame in (0, 1, 4, 8):
        expected = mel_window(mel, first_frame, CLIP)
        torch.testing.assert_close(heard_mel(sound, first_frame, CLIP), expected, rtol=0, atol=1e-5)
    for beyond in (-1, 10):
        with pytest.raises(ClipTooShort, match="the sound has 81"):
            heard_mel(sound, beyond, CLIP)
