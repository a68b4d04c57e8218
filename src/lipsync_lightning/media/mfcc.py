"""Sound as the evaluation SyncNet hears it: mel-frequency cepstral coefficients, and the columns of one window."""

from functools import lru_cache

import numpy as np
import torch
from scipy.fft import dct
from torch import Tensor

from lipsync_lightning.errors import ClipTooShort

# "Out of time" (Chung and Zisserman 2016), section 2, at the sample rate of its public code.
SAMPLE_RATE_HZ = 16000
COLUMNS_PER_FRAME = 4  # 100 columns and 25 frames per second
WINDOW_COLUMNS = 20  # 0.2 s, five frames
NUM_COEFFICIENTS = 13
_HOP = 160  # samples, 10 ms

# Defaults of the Python package `python_speech_features`, which the public code of that SyncNet calls.
_SPAN = 400  # samples, 25 ms, with no window function
_FFT_SIZE = 512
_NUM_FILTERS = 26
_PREEMPHASIS = 0.97
_LIFTER = 22
_SMALLEST_ENERGY = float(np.finfo(np.float64).eps)

# O'Shaughnessy's mel scale, "Speech Communication" (1987): mel = 2595 log10(1 + Hz / 700).
_MEL_FACTOR = 2595.0
_MEL_CORNER_HZ = 700.0

_FULL_SCALE_16_BIT = 32768


def mfcc(waveform: Tensor) -> Tensor:
    """Return the mel-frequency cepstral coefficients of a whole utterance, the first replaced by the log-energy.

    Args:
        waveform: (N,), mono sound in [-1, 1] at 16 kHz. It is rounded to the 16-bit levels that the public code reads:
            silence that is exact there would otherwise be any small noise here, and far away in the logarithm.
    Returns: (13, L), float32, 100 columns per second; L = 1 for up to 400 samples, else 1 + ceil((N - 400) / 160).
    Source: "Out of time", section 2, and `python_speech_features`, as said at the constants above: spans, pre-emphasis,
        power, 26 triangular filters from 0 to 8000 Hz, orthonormal cosine transform of their logarithms, sine lifter.
    """
    scaled = np.round(waveform.detach().cpu().double().numpy() * _FULL_SCALE_16_BIT)
    levels = scaled.clip(-_FULL_SCALE_16_BIT, _FULL_SCALE_16_BIT - 1)
    power = np.abs(np.fft.rfft(_spans(levels), _FFT_SIZE)) ** 2 / _FFT_SIZE
    coefficients = np.asarray(dct(_log(power @ _filters()), type=2, axis=1, norm="ortho"))[:, :NUM_COEFFICIENTS]
    coefficients *= 1 + _LIFTER / 2 * np.sin(np.pi * np.arange(NUM_COEFFICIENTS) / _LIFTER)
    coefficients[:, 0] = _log(power.sum(axis=1))
    return torch.from_numpy(coefficients.T.astype(np.float32)).to(waveform.device)


def mfcc_window(mfcc: Tensor, first_frame: int) -> Tensor:
    """Return the columns heard during the five video frames from `first_frame` on: 4 v to 4 v + 20 for frame v.

    Args:
        mfcc: (13, L), of the whole utterance.
        first_frame: counted at 25 frames per second.
    Returns: (1, 13, 20), one row of what `JudgeSyncNet.forward_aud` reads.
    Raises: ClipTooShort, if the sound ends before the window does.
    Source: "Out of time" (Chung and Zisserman 2016), section 2: 20 columns at 100 per second span 5 frames at 25.
    """
    start = COLUMNS_PER_FRAME * first_frame
    end = start + WINDOW_COLUMNS
    if end > mfcc.shape[1]:
        raise ClipTooShort(f"frame {first_frame} needs MFCC columns to {end}, the sound has {mfcc.shape[1]}; pad it")
    return mfcc[None, :, start:end]


def _spans(levels: np.ndarray) -> np.ndarray:
    """(L, 400), pre-emphasised, zeros after the end; the first sample has none before it and stays."""
    emphasised = np.concatenate([levels[:1], levels[1:] - _PREEMPHASIS * levels[:-1]])
    num_spans = 1 + max(0, -(-(len(levels) - _SPAN) // _HOP))
    padded = np.pad(emphasised, (0, (num_spans - 1) * _HOP + _SPAN - len(levels)))
    return np.lib.stride_tricks.sliding_window_view(padded, _SPAN)[::_HOP]


@lru_cache(maxsize=1)
def _filters() -> np.ndarray:
    """(257, 26): triangles between whole bins of the transform, evenly spaced in mel."""
    highest_mel = _MEL_FACTOR * np.log10(1 + SAMPLE_RATE_HZ / 2 / _MEL_CORNER_HZ)
    edges_hz = _MEL_CORNER_HZ * (10 ** (np.linspace(0, highest_mel, _NUM_FILTERS + 2) / _MEL_FACTOR) - 1)
    edges = np.floor((_FFT_SIZE + 1) * edges_hz / SAMPLE_RATE_HZ)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    bins = np.arange(_FFT_SIZE // 2 + 1)[:, None]
    return np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clip(min=0)


def _log(energy: np.ndarray) -> np.ndarray:
    return np.log(np.where(energy == 0, _SMALLEST_ENERGY, energy))
