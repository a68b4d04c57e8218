"""Speech-like sound whose mouth is known: one articulatory trajectory drives both what is heard and what is seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import butter, sosfiltfilt

Floats = NDArray[np.float64]

_TRACK_HZ = 200  # articulatory trajectories, one value per 5 ms
_LIP_INERTIA_S = 0.026  # standard deviation of the smoothing that blends neighbouring sounds
_PRESSED = -0.4  # target of shut lips: beyond 0, so that smoothed lips still meet
_HOP, _WINDOW, _FFT = 80, 160, 512  # 5 ms hops, 10 ms windows at 16 kHz, room for the resonances to ring out
_BANDWIDTHS_HZ = (80.0, 110.0, 150.0, 220.0, 300.0)
_LOUDEST = 0.7
_ROOM_NOISE = 4e-4


class _Sound(NamedTuple):
    opening: float
    width: float
    voicing: float
    hiss: float
    seconds: float


# Height and frontness of the vowel chart are opening and width: an open vowel has a high F1, a spread one a high F2.
_VOWELS = ((1.0, 0.5), (0.6, 0.8), (0.28, 1.0), (0.62, 0.15), (0.25, 0.0), (0.45, 0.5))  # a e i o u schwa
_VOWEL_SHARES = (0.3, 0.17, 0.15, 0.15, 0.11, 0.12)
_BILABIAL = _Sound(_PRESSED, 0.4, 0, 0, 0.1)
_PLOSIVE = _Sound(0.08, 0.5, 0.6, 0, 0.05)
_BURST = _Sound(0.14, 0.5, 0.4, 0.7, 0.025)
_FRICATIVE = _Sound(0.12, 0.7, 0, 1, 0.09)
_ONSETS: tuple[tuple[_Sound, ...], ...] = ((_BILABIAL,), (_PLOSIVE, _BURST), (_FRICATIVE,), ())
_ONSET_SHARES = (0.42, 0.25, 0.23, 0.1)


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """What stays the same in everything one person says."""

    pitch_hz: float  # 85 to 250
    intonation: float  # relative depth of the pitch contour
    formant_scale: float  # 1 = the vocal tract of an average adult; larger = shorter tract
    syllables_per_second: float  # 3 to 4.5
    breathiness: float  # loudness of breath relative to the voice

    @classmethod
    def from_seed(cls, seed: int | Sequence[int]) -> Self:
        """Return the speaker of a seed. Short vocal tracts tend to go with high pitch, as they do in people."""
        rng = np.random.default_rng(seed)
        height = rng.uniform()
        return cls(
            pitch_hz=90 * 2 ** (1.4 * height + rng.uniform(-0.08, 0.08)),
            intonation=rng.uniform(0.06, 0.18),
            formant_scale=0.92 + 0.18 * height + rng.uniform(-0.03, 0.03),
            syllables_per_second=rng.uniform(3.0, 4.5),
            breathiness=rng.uniform(0.01, 0.06),
        )


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """Sound, and the mouth that made it."""

    waveform: NDArray[np.float32]  # (N,), in [-1, 1]
    opening: NDArray[np.float32]  # (T,), 0 = lips closed, 1 = wide open, in the middle of each video frame
    width: NDArray[np.float32]  # (T,), 0 = rounded lips, 1 = spread lips


def speak(
    speaker: Speaker, seconds: float, seed: int | Sequence[int], fps: int = 25, sample_rate_hz: int = 16000
) -> Utterance:
    """Return made-up syllables spoken by `speaker`; the same arguments give the same utterance.

    Args:
        seconds: length; T = round(seconds * fps), N = the samples heard during T frames.
        seed: of the words alone, the speaker's voice is in `speaker`.
    Source: source-filter synthesis (Fant, Acoustic Theory of Speech Production, 1960): pulses and breath, shaped by
        formant resonances.
    """
    rng = np.random.default_rng(seed)
    num_frames = round(seconds * fps)
    num_samples = round(num_frames * sample_rate_hz / fps)
    duration_s = num_frames / fps
    tracks = _articulate(_sequence(speaker, duration_s, rng), duration_s)
    waveform = _vocalise(speaker, tracks, num_samples, sample_rate_hz, rng)
    track_s = (np.arange(len(tracks)) + 0.5) / _TRACK_HZ
    frame_s = (np.arange(num_frames) + 0.5) / fps
    opening, width = (np.interp(frame_s, track_s, tracks[:, which]).astype(np.float32) for which in (0, 1))
    return Utterance(waveform=waveform.astype(np.float32), opening=opening, width=width)


def _sequence(speaker: Speaker, seconds: float, rng: np.random.Generator) -> list[_Sound]:
    """Return phrases of 4 to 8 syllables between pauses, at least `seconds` long."""
    sounds = [_pause(rng.uniform(0.08, 0.3))]
    total_s = sounds[0].seconds
    while total_s < seconds:
        phrase: list[_Sound] = []
        for _ in range(rng.integers(4, 9)):
            onset = _ONSETS[rng.choice(len(_ONSETS), p=_ONSET_SHARES)]
            opening, width = _VOWELS[rng.choice(len(_VOWELS), p=_VOWEL_SHARES)]
            stress = rng.uniform(0.8, 1.0)
            syllable_s = rng.uniform(0.85, 1.15) / speaker.syllables_per_second
            vowel_s = max(0.1, syllable_s - sum(sound.seconds for sound in onset))
            phrase += [*onset, _Sound(opening * stress, width, voicing=1, hiss=0, seconds=vowel_s)]
        phrase.append(_pause(rng.uniform(0.18, 0.45)))
        total_s += sum(sound.seconds for sound in phrase)
        sounds += phrase
    return sounds


def _pause(seconds: float) -> _Sound:
    return _Sound(_PRESSED, 0.45, voicing=0, hiss=0, seconds=seconds)


def _articulate(sounds: Sequence[_Sound], seconds: float) -> Floats:
    """Return opening, width, voicing and hiss, (P, 4) at `_TRACK_HZ`: targets, blended by the lips' inertia."""
    ends = np.cumsum([sound.seconds for sound in sounds])
    times = (np.arange(round(seconds * _TRACK_HZ)) + 0.5) / _TRACK_HZ
    current = np.minimum(np.searchsorted(ends, times), len(sounds) - 1)
    targets = np.array(sounds)[current, :4]
    lips = gaussian_filter1d(targets[:, :2], _LIP_INERTIA_S * _TRACK_HZ, axis=0, mode="nearest")
    glottis = gaussian_filter1d(targets[:, 2:], 0.012 * _TRACK_HZ, axis=0, mode="nearest")
    return np.column_stack([np.clip(lips, 0, 1), glottis])


def _vocalise(
    speaker: Speaker, tracks: Floats, num_samples: int, sample_rate_hz: int, rng: np.random.Generator
) -> Floats:
    """Return the sound of `_articulate`'s tracks. Shut lips let nothing out: loudness follows the opening."""
    opening, width, voicing, hiss = tracks.T
    times = np.arange(num_samples) / sample_rate_hz
    track_s = (np.arange(len(tracks)) + 0.5) / _TRACK_HZ
    breath = rng.standard_normal(num_samples)
    source = _glottal_pulses(speaker, times, rng) + speaker.breathiness * breath
    voice = source * np.interp(times, track_s, voicing * opening)
    friction = breath * np.interp(times, track_s, hiss * np.minimum(opening / 0.1, 1))
    hops_s = np.arange(num_samples // _HOP + 2) * _HOP / sample_rate_hz
    resonances = _vocal_tract(
        speaker, np.interp(hops_s, track_s, opening), np.interp(hops_s, track_s, width), sample_rate_hz
    )
    band_hz = (3000, min(6500, 0.45 * sample_rate_hz))
    hissing = butter(2, band_hz, btype="bandpass", fs=sample_rate_hz, output="sos")
    waveform = _filter_by_hop(voice, resonances) + 0.2 * np.asarray(sosfiltfilt(hissing, friction))
    peak = np.abs(waveform).max()
    return waveform * (_LOUDEST / max(peak, 1e-9)) + _ROOM_NOISE * rng.standard_normal(num_samples)


def _glottal_pulses(speaker: Speaker, times: Floats, rng: np.random.Generator) -> Floats:
    """Return the rate of air flow through the vocal folds: Rosenberg's pulse, differentiated (slow rise, fast fall)."""
    drift = sum(rng.uniform(0.4, 1.0) * np.sin(2 * np.pi * (rate * times + rng.uniform())) for rate in (0.35, 0.9, 2.1))
    pitch_hz = speaker.pitch_hz * 2 ** (speaker.intonation * np.asarray(drift))
    phase = np.cumsum(pitch_hz) * (times[1] - times[0]) % 1.0
    rising = np.sin(np.pi * phase / 0.45)
    falling = -2.5 * np.sin(np.pi * (phase - 0.45) / 0.2)
    return np.where(phase < 0.45, rising, np.where(phase < 0.65, falling, 0.0))


def _vocal_tract(speaker: Speaker, opening: Floats, width: Floats, sample_rate_hz: int) -> NDArray[np.complex128]:
    """Return the response at each hop, (hops, _FFT // 2 + 1): F1 follows the opening, F2 and some of F3 the width."""
    still = np.zeros_like(opening)
    formants = speaker.formant_scale * np.stack(
        [260 + 560 * opening, 780 + 1450 * width, 2450 + 450 * width, still + 3600, still + 4500]
    )
    frequencies = np.fft.rfftfreq(_FFT, 1 / sample_rate_hz)
    response = np.ones((len(opening), len(frequencies)), dtype=np.complex128)
    for formant_hz, bandwidth_hz in zip(formants, _BANDWIDTHS_HZ, strict=True):
        squared = formant_hz[:, None] ** 2
        response *= squared / (squared - frequencies**2 + 1j * bandwidth_hz * frequencies)
    return response


def _filter_by_hop(source: Floats, responses: NDArray[np.complex128]) -> Floats:
    """Return `source` filtered by one response per hop, blended by overlapping windows."""
    num_samples, num_hops = len(source), len(responses)
    padded = np.pad(source, (_HOP, num_hops * _HOP + _WINDOW - num_samples))
    pieces = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP][:num_hops]
    window = np.hanning(_WINDOW + 1)[:-1]
    filtered = np.fft.irfft(np.fft.rfft(pieces * window, _FFT) * responses, _FFT)
    out = np.zeros((num_hops + _FFT // _HOP + 1) * _HOP)
    for start in range(0, _FFT, _HOP):
        stripe = filtered[:, start : start + _HOP]
        out[start : start + num_hops * _HOP].reshape(num_hops, _HOP)[:, : stripe.shape[1]] += stripe
    return out[_HOP : _HOP + num_samples]
