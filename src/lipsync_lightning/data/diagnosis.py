"""What is wrong with prepared clips, as far as their sound and pixels tell without any trained network."""

from dataclasses import dataclass
from hashlib import sha256
from math import sqrt

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadMedia, BrokenShard, ClipTooShort
from lipsync_lightning.media.audio import decode_flac
from lipsync_lightning.media.masks import keep_mask
from lipsync_lightning.media.mel import log_mel
from lipsync_lightning.media.video import decode_window
from lipsync_lightning.shards.reader import ClipIndex

MAX_LAG = 15  # frames to either side, as the public code of the evaluation SyncNet tries them
_SILENT_DBFS = -50.0  # root mean square; real and made-up speech here lies between -30 and -18
_NUM_BANDS = 8  # of the coarse fingerprint
_SAME_SOUND = 0.9  # correlation of fingerprints; other speech, of the same person too, stayed below 0.7
_MOST_FRAMES = 250  # read of each clip
_FEWEST_FRAMES = 3 * MAX_LAG  # so that two thirds of a clip still overlap at the largest lag
_FEWEST_CLIPS = 4  # to be compared with each other
_MOST_FOREIGN = 16  # other clips' sounds that each clip's lips are compared with

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SoundCheck:
    """What the sounds of some clips are."""

    num_clips: int  # whose sound could be read
    num_unreadable: int
    silent: list[str]  # ids whose sound lies below -50 dB of full scale
    shared: list[list[str]]  # groups of ids with the same sound; silent clips are in none

    @property
    def num_shared(self) -> int:
        return sum(len(group) for group in self.shared)


@dataclass(frozen=True, kw_only=True)
class OffsetHistogram:
    """How far lips and sound of some clips are apart. An offset of k: the sound comes k frames early, as in `SyncScore`."""

    num_clips: int  # that could be measured
    num_left_out: int  # unreadable, or too short
    offsets: NDArray[np.int64]  # (clips,): where each clip's own curve peaks
    curve: Floats  # (2 * MAX_LAG + 1,): agreement of lips and sound by offset, mean over the clips, each in [-1, 1]
    foreign_peak: float  # the highest such a curve gets with other clips' sound; NaN for fewer than two clips
    fit: float  # how often the own sound fits a clip's lips better than another clip's, each at its best offset; 0.5 is chance

    @property
    def counts(self) -> NDArray[np.int64]:
        """(2 * MAX_LAG + 1,): how many clips have the offset -MAX_LAG, ..., MAX_LAG."""
        return np.bincount(self.offsets + MAX_LAG, minlength=2 * MAX_LAG + 1)

    @property
    def median(self) -> float:
        """Of the clips' offsets. NaN without clips."""
        return float(np.median(self.offsets)) if self.num_clips else float("nan")

    @property
    def common(self) -> int:
        """The offset at which lips and sound of all clips together agree best."""
        return int(self.curve.argmax()) - MAX_LAG

    @property
    def peak(self) -> float:
        """Agreement at `common`, above the median one."""
        return float(self.curve.max() - np.median(self.curve))

    @property
    def is_clear(self) -> bool:
        """Whether the clips have `common` in common: together they agree twice as well as with any other clips' sound."""
        return self.num_clips >= _FEWEST_CLIPS and float(self.curve.max()) > 2 * self.foreign_peak

    @property
    def fits(self) -> bool:
        """Whether the sounds belong to the lips: at a common offset, or each at its own by three standard deviations of chance."""
        if self.is_clear:
            return True
        # By chance a clip's rank among others is uniform in [0, 1], whose variance is 1/12.
        return self.num_clips >= _FEWEST_CLIPS and self.fit > 0.5 + 3 * sqrt(1 / (12 * self.num_clips))


def sound_duplicates(index: ClipIndex, num_clips: int) -> SoundCheck:
    """Return which of `num_clips` clips, spread evenly over the index, hold the same sound, or none.

    The same sound is found by its samples, and by its fingerprint if it was cut elsewhere (half of the shorter one is in both), made
    louder or compressed. What is wrong with a few of many clips is not found: they would have to be among those looked at.
    """
    sounds = {str(index.keys[clip]): _sound(index, clip) for clip in _spread(index, num_clips)}
    readable = {key: sound for key, sound in sounds.items() if sound is not None}
    audible = {key: sound for key, sound in readable.items() if _dbfs(sound) >= _SILENT_DBFS}
    ids = list(audible)
    hashes = [sha256(sound.tobytes()).digest() for sound in audible.values()]
    identical = np.array([[one == other for other in hashes] for one in hashes], dtype=bool).reshape(len(ids), len(ids))
    groups = _connected(identical | _alike([_fingerprint(sound) for sound in audible.values()]))
    return SoundCheck(
        num_clips=len(readable),
        num_unreadable=len(sounds) - len(readable),
        silent=sorted(set(readable) - set(audible)),
        shared=[[ids[number] for number in group] for group in groups if len(group) > 1],
    )


def offset_histogram(index: ClipIndex, clip: ClipSpec, num_clips: int) -> OffsetHistogram:
    """Return by how many frames the sound of `num_clips` clips, spread evenly over the index, comes early, from -15 to 15.

    A mouth that moves is heard: the loudness during a frame, and the size of its change, are correlated with how much the mouth's region
    changes from the frame before to the frame after, both without what is slower than a second. Clips shorter than 45 frames are left out.

    What it cannot do: on real faces the mouth's region also changes with the head, light and compression, and lips move before they are
    heard. On 30 seconds of two real people in step, single clips came out between -12 and 4, all together at 1 or 2, and neither `fits`
    nor `is_clear` held: believe those two when they are true, expect them from some dozens of clips on, and conclude nothing about real
    clips from their absence. It does not replace a trained judge of sync.
    """
    chosen = _spread(index, num_clips)
    measured = [pair for pair in (_lips_and_loudness(index, number, clip) for number in chosen) if pair is not None]
    num_foreign = min(_MOST_FOREIGN, max(0, len(measured) - 1))
    curves = np.zeros((len(measured), 1 + num_foreign, 2 * MAX_LAG + 1))  # with the own sound, then with other clips'
    for row, (lips, _) in enumerate(measured):
        for step in range(1 + num_foreign):
            curves[row, step] = _agreement(lips, measured[(row + step) % len(measured)][1], clip.fps)
    own, foreign = curves[:, 0], curves[:, 1:]
    peaks = curves.max(axis=2)
    beaten = (peaks[:, :1] > peaks[:, 1:]) + 0.5 * (peaks[:, :1] == peaks[:, 1:])
    return OffsetHistogram(
        num_clips=len(measured),
        num_left_out=len(chosen) - len(measured),
        offsets=own.argmax(axis=1) - MAX_LAG,
        curve=own.mean(axis=0) if measured else np.zeros(2 * MAX_LAG + 1),
        foreign_peak=float(foreign.mean(axis=0).max()) if num_foreign else float("nan"),
        fit=float(beaten.mean()) if num_foreign else float("nan"),
    )


def _spread(index: ClipIndex, num_clips: int) -> list[int]:
    return np.linspace(0, len(index) - 1, min(num_clips, len(index))).round().astype(int).tolist()


def _sound(index: ClipIndex, clip: int) -> NDArray[np.float32] | None:
    """Return a clip's waveform (N,), or None if it cannot be read."""
    try:
        return decode_flac(index.read(clip)["flac"])
    except (BadMedia, BrokenShard):
        return None


def _dbfs(waveform: NDArray[np.float32]) -> float:
    return float(10 * np.log10(np.square(waveform, dtype=np.float64).mean() + 1e-12))


def _fingerprint(waveform: NDArray[np.float32]) -> Floats:
    """Return the sound's loudness by band and column, (bands, columns), without each band's mean, so that its gain does not matter."""
    mel = (
        rearrange(log_mel(torch.from_numpy(waveform)), "(bands m) l -> bands m l", bands=_NUM_BANDS)
        .mean(dim=1)
        .double()
        .numpy()
    )
    return mel - mel.mean(axis=1, keepdims=True)


def _alike(fingerprints: list[Floats]) -> NDArray[np.bool_]:
    """Return which sounds are the same, (clips, clips)."""
    length = 2 * max((fingerprint.shape[1] for fingerprint in fingerprints), default=0)
    spectra = [np.fft.rfft(fingerprint, length, axis=1) for fingerprint in fingerprints]
    energies = [np.concatenate([[0], np.square(fingerprint).sum(axis=0).cumsum()]) for fingerprint in fingerprints]
    alike = np.eye(len(fingerprints), dtype=bool)
    for i in range(len(fingerprints)):
        for j in range(i):
            products = np.fft.irfft((spectra[i] * spectra[j].conj()).sum(axis=0), length)
            alike[i, j] = alike[j, i] = _best_correlation(products, energies[i], energies[j]) > _SAME_SOUND
    return alike


def _best_correlation(products: Floats, first: Floats, second: Floats) -> float:
    """Return the highest correlation of two fingerprints where they overlap by at least half of the shorter one.

    Args:
        products: (length,), their circular cross-correlation.
        first, second: (columns + 1,), the energy up to each column.
    """
    num_first, num_second = len(first) - 1, len(second) - 1
    least = max(1, min(num_first, num_second) // 2)
    lags = np.arange(least - num_second, num_first - least + 1)  # where the second one begins, in columns of the first
    start, stop = np.maximum(lags, 0), np.minimum(lags + num_second, num_first)
    energy = (first[stop] - first[start]) * (second[stop - lags] - second[start - lags])
    return float((products[lags] / np.sqrt(np.maximum(energy, 1e-12))).max())


def _connected(same: NDArray[np.bool_]) -> list[list[int]]:
    """Return the groups of what is the same, directly or through others."""
    left, groups = set(range(len(same))), []
    while left:
        group, new = [], [min(left)]
        while new:
            left -= set(new)
            group += new
            new = sorted(other for other in left if same[group, other].any())
        groups.append(sorted(group))
    return groups


def _lips_and_loudness(index: ClipIndex, number: int, clip: ClipSpec) -> tuple[Floats, Floats] | None:
    """Return motion of the mouth's region and loudness by frame, (T,) each; None of a clip that is too short or cannot be read."""
    try:
        members = index.read(number)
        waveform = decode_flac(members["flac"])
        num_frames = min(
            int(index.num_frames[number]), int(len(waveform) * clip.fps / clip.sample_rate_hz), _MOST_FRAMES
        )
        if num_frames < _FEWEST_FRAMES:
            return None
        frames = decode_window(members["mp4"], 0, num_frames)
    except (BadMedia, BrokenShard, ClipTooShort):
        return None
    edges = [clip.num_samples(frame) for frame in range(num_frames + 1)]
    energy = np.add.reduceat(np.square(waveform[: edges[-1]], dtype=np.float64), edges[:-1])
    return _mouth_motion(frames), np.sqrt(energy / np.diff(edges))


def _mouth_motion(frames: NDArray[np.uint8]) -> Floats:
    """Return how much the region that the mask takes from the lower half of a face changes around each frame, (T,), in grey levels."""
    half = frames.shape[1] // 2
    hidden = keep_mask(frames.shape[1]).numpy()[half:] < 0.5
    grey = frames[:, half:][:, hidden].mean(axis=-1, dtype=np.float32)
    change = np.abs(grey[2:] - grey[:-2]).mean(axis=1, dtype=np.float64)
    return np.concatenate([change[:1], change, change[-1:]])


def _agreement(lips: Floats, loudness: Floats, fps: int) -> Floats:
    """Return the correlation of lips with sound at the offsets -MAX_LAG to MAX_LAG; a sound of another length is repeated or cut."""
    heard = np.resize(loudness, len(lips))
    return (_correlations(lips, heard, fps) + _correlations(lips, np.abs(np.gradient(heard)), fps)) / 2


def _correlations(lips: Floats, heard: Floats, fps: int) -> Floats:
    seen, heard = _standardised(lips, fps), _standardised(heard, fps)
    overlap = len(seen) - np.abs(np.arange(-MAX_LAG, MAX_LAG + 1))
    middle = len(seen) - 1
    return np.correlate(seen, heard, "full")[middle - MAX_LAG : middle + MAX_LAG + 1] / overlap


def _standardised(series: Floats, fps: int) -> Floats:
    quick = series - uniform_filter1d(series, fps, mode="nearest")
    return (quick - quick.mean()) / max(float(quick.std()), 1e-9)
