"""Log-mel spectrograms as SyncNet hears them, and the columns that belong to one clip."""

from functools import cache
from math import ceil

import torch
from torch import Tensor
from torchaudio.functional import melscale_fbanks, preemphasis

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadConfig, ClipTooShort

# Wav2Lip (arXiv 2008.10010) and its public configuration, kept by LatentSync (arXiv 2412.09262).
_PREEMPHASIS = 0.97
_WINDOW_MS = 50
_LOWEST_HZ = 55.0
_HIGHEST_HZ = 7600.0
_SMALLEST_AMPLITUDE = 1e-5
_REFERENCE_DB = 20.0
_RANGE_DB = 100.0
_LARGEST_VALUE = 4.0
_CONTEXT_S = 0.1  # the Fourier window reaches 25 ms to either side, and the emphasis a sample further


def log_mel(waveform: Tensor, *, sample_rate_hz: int = 16000, mel_hz: int = 80, num_mels: int = 80) -> Tensor:
    """Return the log-mel spectrogram of a whole utterance, scaled to [-4, 4].

    Args:
        waveform: (N,), mono sound in [-1, 1] at `sample_rate_hz`.
        mel_hz: columns per second; must divide the sample rate.
    Returns: (num_mels, 1 + N // hop), float32, hop = sample_rate_hz / mel_hz samples.
    Raises: BadConfig, if the columns would not fall on whole samples.
    Source: Wav2Lip (arXiv 2008.10010): pre-emphasis 0.97, magnitudes of a 50 ms periodic Hann window with zero padding,
        Slaney mel filters from 55 to 7600 Hz (at most half the sample rate), 20 dB below full scale, 100 dB of range.
    """
    if waveform.ndim != 1:
        raise ValueError(f"log_mel takes mono sound of shape (N,), got {tuple(waveform.shape)}; average the channels")
    if sample_rate_hz % mel_hz:
        raise BadConfig(f"mel_hz must divide the sample rate, got {mel_hz} columns per second at {sample_rate_hz} Hz")
    window = sample_rate_hz * _WINDOW_MS // 1000
    hann, filters = _hann_and_filters(window, sample_rate_hz, num_mels, waveform.device)
    # Reflecting instead of zero padding is off by up to 0.9 in the first and last columns.
    magnitudes = torch.stft(
        preemphasis(waveform.float(), _PREEMPHASIS),
        window,
        sample_rate_hz // mel_hz,
        window=hann,
        pad_mode="constant",
        return_complex=True,
    ).abs()
    amplitudes = filters @ magnitudes
    decibels = 20 * torch.log10(amplitudes.clamp(min=_SMALLEST_AMPLITUDE)) - _REFERENCE_DB
    scaled = 2 * _LARGEST_VALUE * (decibels + _RANGE_DB) / _RANGE_DB - _LARGEST_VALUE
    return scaled.clamp(-_LARGEST_VALUE, _LARGEST_VALUE)


@cache
def _hann_and_filters(window: int, sample_rate_hz: int, num_mels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    highest_hz = min(_HIGHEST_HZ, sample_rate_hz / 2)
    filters = melscale_fbanks(
        window // 2 + 1, _LOWEST_HZ, highest_hz, num_mels, sample_rate_hz, norm="slaney", mel_scale="slaney"
    )
    return torch.hann_window(window, device=device), filters.T.contiguous().to(device)


def log_mel_part(
    waveform: Tensor, first: int, last: int, *, sample_rate_hz: int = 16000, mel_hz: int = 80, num_mels: int = 80
) -> Tensor:
    """Return columns `first` to `last - 1` of a sound's `log_mel`, (num_mels, last - first), of no more of it."""
    hop, context = sample_rate_hz // mel_hz, ceil(_CONTEXT_S * mel_hz)
    start = max(first - context, 0)
    sound = waveform[start * hop : (last + context) * hop]
    mel = log_mel(sound, sample_rate_hz=sample_rate_hz, mel_hz=mel_hz, num_mels=num_mels)
    return mel[:, first - start : last - start]


def heard_mel(waveform: Tensor, first_frame: int, clip: ClipSpec) -> Tensor:
    """Return what `mel_window` cuts of the log-mel of a whole sound (N,), (1, M, clip.mel_columns). Raises: as that."""
    columns = _columns(first_frame, clip, 1 + len(waveform) // (clip.sample_rate_hz // clip.mel_hz))
    settings = {"sample_rate_hz": clip.sample_rate_hz, "mel_hz": clip.mel_hz, "num_mels": clip.num_mels}
    return log_mel_part(waveform, columns.start, columns.stop, **settings)[None]


def mel_window(mel: Tensor, first_frame: int, clip: ClipSpec) -> Tensor:
    """Return the mel columns heard while one clip is on screen.

    Args:
        mel: (M, L), log-mel of the whole utterance, `clip.mel_hz` columns per second.
        first_frame: the clip's first video frame, counted at `clip.fps`.
    Returns: (1, M, clip.mel_columns), same units as `mel`.
    Raises: ClipTooShort, if the sound ends before the clip does.
    Source: Wav2Lip (arXiv 2008.10010): 16 columns at 80 per second span 5 frames at 25 fps.
    """
    columns = _columns(first_frame, clip, mel.shape[1])
    return mel[None, :, columns.start : columns.stop]


def _columns(first_frame: int, clip: ClipSpec, num_columns: int) -> range:
    start = clip.mel_start(first_frame)
    end = start + clip.mel_columns
    if start < 0 or end > num_columns:
        raise ClipTooShort(
            f"the clip from frame {first_frame} needs mel columns {start} to {end}, the sound has {num_columns}; "
            f"start earlier or pad the sound"
        )
    return range(start, end)
