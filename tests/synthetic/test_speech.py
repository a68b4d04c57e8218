from itertools import pairwise

import numpy as np
import pytest

from lipsync_lightning.synthetic.opening import correlation
from lipsync_lightning.synthetic.speech import Speaker, Utterance, speak

SAMPLES_PER_FRAME = 640


@pytest.fixture(scope="module")
def utterances() -> list[Utterance]:
    return [speak(Speaker.from_seed(i), 5.0, [i, 7]) for i in range(20)]


def frame_energy(utterance: Utterance) -> np.ndarray:
    return np.sqrt((utterance.waveform.reshape(-1, SAMPLES_PER_FRAME) ** 2).mean(1))


def spectral_context(waveform: np.ndarray, reach: int = 4) -> np.ndarray:
    """Return log energies of 24 bands of each frame and its neighbours, (T, 24 * (2 * reach + 1))."""
    num_frames = len(waveform) // SAMPLES_PER_FRAME
    padded = np.pad(waveform, (192, 192))
    pieces = np.lib.stride_tricks.sliding_window_view(padded, 1024)[::SAMPLES_PER_FRAME][:num_frames]
    power = np.abs(np.fft.rfft(pieces * np.hanning(1024))) ** 2
    edges = np.geomspace(4, 510, 25).astype(int)
    bands = np.stack([power[:, low : max(low + 1, high)].mean(1) for low, high in pairwise(edges)], axis=1)
    padded_bands = np.pad(np.log(bands + 1e-3), ((reach, reach), (0, 0)), mode="edge")
    return np.concatenate([padded_bands[i : i + num_frames] for i in range(2 * reach + 1)], axis=1)


def test_same_seed_gives_the_same_sound_and_mouth():
    speaker = Speaker.from_seed(3)
    first, second, other = (speak(speaker, 1.0, seed) for seed in (5, 5, 6))
    assert np.array_equal(first.waveform, second.waveform)
    assert np.array_equal(first.opening, second.opening)
    assert not np.array_equal(first.opening, other.opening)


def test_the_mouth_is_shut_wherever_it_is_silent(utterances: list[Utterance]):
    silent = [frame_energy(u) < 0.002 for u in utterances]
    assert sum(s.sum() for s in silent) > 200
    assert all((u.opening[s] == 0).all() for u, s in zip(utterances, silent, strict=True))


def test_loudness_follows_the_opening(utterances: list[Utterance]):
    assert all(correlation(frame_energy(u), u.opening) > 0.6 for u in utterances)


def test_a_linear_listener_reads_the_opening_of_speakers_it_never_heard(utterances: list[Utterance]):
    features = [spectral_context(u.waveform) for u in utterances]
    known = np.concatenate(features[:14])
    mean, spread = known.mean(0), known.std(0)
    known = (known - mean) / spread
    target = np.concatenate([u.opening for u in utterances[:14]])
    weights = np.linalg.solve(known.T @ known + 30 * np.eye(known.shape[1]), known.T @ (target - target.mean()))
    for feature, utterance in zip(features[14:], utterances[14:], strict=True):
        assert correlation((feature - mean) / spread @ weights, utterance.opening) > 0.85
