from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lipsync_lightning.media.mfcc import mfcc, mfcc_window

ORACLE = load_file(Path(__file__).parents[1] / "fixtures" / "mfcc.safetensors")


def waveform() -> Tensor:
    return ORACLE["samples"].float() / 32768


def test_coefficients_are_those_of_the_reference() -> None:
    coefficients = mfcc(waveform())
    assert coefficients.dtype == torch.float32
    torch.testing.assert_close(coefficients.double(), ORACLE["mfcc"], rtol=0, atol=1e-5)


def test_sound_beyond_full_scale_is_cut_off_there() -> None:
    loud = 3 * torch.sin(torch.arange(800.0))
    assert torch.equal(mfcc(loud), mfcc(loud.clamp(-1, 32767 / 32768)))


@pytest.mark.parametrize(("num_samples", "num_columns"), [(1, 1), (400, 1), (401, 2), (560, 2), (561, 3), (16000, 99)])
def test_every_sample_falls_into_a_column(num_samples: int, num_columns: int) -> None:
    sound = torch.zeros(num_samples)
    sound[-1] = 0.5
    coefficients = mfcc(sound)
    assert coefficients.shape == (13, num_columns)
    assert coefficients[0, -1] > 0


@pytest.mark.parametrize(("first_frame", "first_column"), [(0, 0), (1, 4), (19, 76)])
def test_a_window_is_the_twenty_columns_from_its_frame_on(first_frame: int, first_column: int) -> None:
    coefficients = torch.arange(99.0).expand(13, -1)
    window = mfcc_window(coefficients, first_frame)
    assert window.shape == (1, 13, 20)
    assert window[0, 5].tolist() == list(range(first_column, first_column + 20))
