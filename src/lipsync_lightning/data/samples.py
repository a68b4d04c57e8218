"""What a shard's sample becomes: training windows, still as bytes-sized tensors.

Frames stay uint8 until they are on the device; `to_float` makes them [-1, 1].
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BrokenShard, ClipTooShort
from lipsync_lightning.media.audio import decode_flac
from lipsync_lightning.media.masks import keep_mask
from lipsync_lightning.media.mel import log_mel, mel_window
from lipsync_lightning.media.video import count_frames, decode_windows
from lipsync_lightning.models.audio_encoder import AudioEncoder

Window = dict[str, Any]  # one row of a ClipBatch, before collation


class Samples(Protocol):
    """Turns one shard sample into windows."""

    def __call__(self, sample: Mapping[str, Any], rng: np.random.Generator) -> list[Window]: ...


class SyncNetSamples:
    """Windows with their sound, several of each clip, so that a batch holds the same clip at other times."""

    def __init__(self, *, clip: ClipSpec, windows_per_clip: int, min_gap_frames: int) -> None:
        """Args: min_gap_frames: two windows of a clip start at least this far apart; closer ones would be false negatives."""
        self.clip = clip
        self.windows_per_clip = windows_per_clip
        self.min_gap_frames = min_gap_frames

    def __call__(self, sample: Mapping[str, Any], rng: np.random.Generator) -> list[Window]:
        """Return at most `windows_per_clip` windows: `frames` (T, 3, H, W) uint8, `mel` (1, M, L), `id`, `first_frame`.

        Raises: ClipTooShort, if there is not one; BrokenShard, if a member is missing.
        """
        video, mel = _member(sample, "mp4"), clip_mel(sample, self.clip)
        num_frames = usable_frames(video, mel, self.clip)
        if num_frames < self.clip.num_frames:
            raise ClipTooShort(
                f"{sample['__key__']}: {num_frames} frames with sound, {self.clip.num_frames} needed; prepare with longer min_seconds"
            )
        starts = spread_starts(num_frames, self.windows_per_clip, self.min_gap_frames, self.clip, rng)
        windows = decode_windows(video, starts, self.clip.num_frames)
        return [
            {
                "frames": frames_tensor(frames),
                "mel": mel_window(mel, start, self.clip),
                "id": sample["__key__"],
                "first_frame": start,
            }
            for start, frames in zip(starts, windows, strict=True)
        ]


class UNetSamples:
    """Target windows with a reference window that does not overlap them, mask, audio tokens and mel."""

    def __init__(self, *, clip: ClipSpec, audio_encoder: AudioEncoder, windows_per_clip: int) -> None:
        self.clip = clip
        self.audio_encoder = audio_encoder
        self.windows_per_clip = windows_per_clip
        self.keep_mask = rearrange(keep_mask(clip.resolution), "h w -> 1 h w")

    def __call__(self, sample: Mapping[str, Any], rng: np.random.Generator) -> list[Window]:
        """Return `windows_per_clip` rows of every key of `ClipBatch`, frames as uint8."""
        video, mel = _member(sample, "mp4"), clip_mel(sample, self.clip)
        num_frames = usable_frames(video, mel, self.clip)
        tokens = self.audio_encoder.tokens(clip_waveform(sample), num_frames, fps=float(self.clip.fps))
        pairs = [target_and_reference(num_frames, self.clip, rng, sample["__key__"]) for _ in range(self.windows_per_clip)]
        windows = iter(decode_windows(video, [start for pair in pairs for start in pair], self.clip.num_frames))
        return [
            {
                "frames": frames_tensor(next(windows)),
                "reference": frames_tensor(next(windows)),
                "keep_mask": self.keep_mask,
                "audio": tokens[target : target + self.clip.num_frames].clone(),
                "mel": mel_window(mel, target, self.clip),
                "id": sample["__key__"],
                "first_frame": target,
            }
            for target, _ in pairs
        ]


def to_float(frames: Tensor) -> Tensor:
    """Return uint8 frames as float in [-1, 1]."""
    return frames.float() / 127.5 - 1


def frames_tensor(frames: np.ndarray) -> Tensor:
    """Return (T, H, W, 3) decoded frames as a (T, 3, H, W) uint8 tensor."""
    return rearrange(torch.from_numpy(frames), "t h w c -> t c h w").contiguous()


def clip_waveform(sample: Mapping[str, Any]) -> Tensor:
    return torch.from_numpy(decode_flac(_member(sample, "flac")))


def clip_mel(sample: Mapping[str, Any], clip: ClipSpec) -> Tensor:
    """Return the (M, L) log-mel of a sample's whole sound."""
    return log_mel(clip_waveform(sample), sample_rate_hz=clip.sample_rate_hz, mel_hz=clip.mel_hz, num_mels=clip.num_mels)


def usable_frames(video: bytes, mel: Tensor, clip: ClipSpec) -> int:
    """Return how many frames have both picture and a full mel window."""
    last_column = mel.shape[-1] - clip.mel_columns
    last_start = ((last_column + 1) * clip.fps - 1) // clip.mel_hz  # the greatest f with clip.mel_start(f) <= last_column
    return min(count_frames(video), last_start + clip.num_frames)


def target_and_reference(num_frames: int, clip: ClipSpec, rng: np.random.Generator, key: str) -> tuple[int, int]:
    """Return first frames of two windows that do not overlap, the order drawn too.

    Raises: ClipTooShort, if the clip cannot hold two windows.
    """
    slack = num_frames - 2 * clip.num_frames
    if slack < 0:
        raise ClipTooShort(
            f"{key}: {num_frames} frames, {2 * clip.num_frames} needed for a target and a reference; prepare with longer min_seconds"
        )
    early, late = sorted(int(x) for x in rng.integers(0, slack + 1, size=2))
    pair = (early, late + clip.num_frames)
    return pair if rng.random() < 0.5 else (pair[1], pair[0])


def spread_starts(num_frames: int, count: int, min_gap: int, clip: ClipSpec, rng: np.random.Generator) -> list[int]:
    """Return 1 to `count` random window starts of a clip that holds one, each at least `min_gap` frames from the next, in random order."""
    last_start = num_frames - clip.num_frames
    count = min(count, last_start // min_gap + 1)
    slack = last_start - (count - 1) * min_gap
    starts = np.sort(rng.integers(0, slack + 1, size=count)) + min_gap * np.arange(count)
    return [int(start) for start in rng.permutation(starts)]


def _member(sample: Mapping[str, Any], suffix: str) -> bytes:
    if suffix not in sample:
        members = sorted(name for name in sample if not name.startswith("__"))
        raise BrokenShard(f"{sample['__key__']} in {sample['__url__']}: no {suffix!r} member (has {members}); run `prepare` again")
    return sample[suffix]
