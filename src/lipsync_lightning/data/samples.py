"""What a clip of a shard becomes: windows to train on. Frames stay uint8 until they are on the device."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data.augment import Augment
from lipsync_lightning.errors import BadConfig, ClipTooShort
from lipsync_lightning.media.audio import decode_flac
from lipsync_lightning.media.clips import decode_planes
from lipsync_lightning.media.masks import keep_mask
from lipsync_lightning.media.mel import heard_mel
from lipsync_lightning.models.audio_encoder import AudioEncoder

Window = dict[str, Any]  # one row of a batch, before collation


class Samples(Protocol):
    """Turns one clip of a shard into windows."""

    members: Sequence[str]  # suffixes of what it reads of a clip, whole
    parts: Sequence[str]  # suffixes of what it reads in parts
    same_for_all: Mapping[str, Tensor]  # what every window has besides, without a batch dimension

    augment: Augment | None  # of windows that are trained on
    pictures: Sequence[str]  # keys of what it changes alike
    sounds: Sequence[str]

    def num_windows(self, num_frames: int) -> int: ...  # that a clip of so many frames gives; 0 where it is too short

    def __call__(self, sample: Mapping[str, Any], rng: np.random.Generator, wanted: range) -> list[Window]:
        """Return the wanted ones of the clip's windows, placed by `rng`, the same ones whichever others are wanted."""
        ...


class WholeFaces:
    """What a SyncNet of latents looks at, and what an autoencoder is fitted to: `frames` (T, 3, H, W) uint8."""

    members: Sequence[str] = ("mp4",)
    parts: Sequence[str] = ()
    key = "frames"
    top = 0.0  # share of the height that is left out

    def __call__(self, sample: Mapping[str, Any], starts: Sequence[int], num_frames: int) -> list[Window]:
        """Return what the windows of a clip show. Raises: BadMedia, ClipTooShort."""
        windows = decode_planes(sample["mp4"], starts, num_frames, self.top)
        return [{self.key: torch.from_numpy(planes)} for planes in windows]


class Lips(WholeFaces):
    """What a SyncNet of pixels looks at: `lips` (T, 3, H / 2, W) uint8; the rest is not even turned into colours."""

    key = "lips"
    top = 0.5


class FaceSamples:
    """Windows of frames alone, for an autoencoder."""

    members: Sequence[str] = ("mp4", "json")
    parts: Sequence[str] = ()
    pictures: Sequence[str] = ("frames",)
    sounds: Sequence[str] = ()

    def __init__(
        self, *, clip: ClipSpec, windows_per_clip: int = 1, mask: str = "released", augment: Augment | None = None
    ) -> None:
        """Args: mask: where reconstruction counts more for a mouth loss, one of `media.masks.REGIONS`."""
        self.augment = augment
        self.clip = clip
        self.windows_per_clip = windows_per_clip
        self.same_for_all = {"keep_mask": rearrange(keep_mask(clip.resolution, mask), "h w -> 1 h w")}

    def num_windows(self, num_frames: int) -> int:
        return self.windows_per_clip if num_frames >= self.clip.num_frames else 0

    def __call__(self, sample: Mapping[str, Any], rng: np.random.Generator, wanted: range) -> list[Window]:
        """Return `frames` (T, 3, H, W) uint8, `id`, `first_frame`. Raises: BadMedia, ClipTooShort."""
        places = rng.integers(stated_frames(sample) - self.clip.num_frames + 1, size=self.windows_per_clip)
        starts = places[wanted.start : wanted.stop].tolist()
        return [
            {"frames": torch.from_numpy(planes), "id": sample["__key__"], "first_frame": start}
            for start, planes in zip(starts, decode_planes(sample["mp4"], starts, self.clip.num_frames), strict=True)
        ]


class SyncNetSamples:
    """Windows with their sound, several of each clip, so that a batch holds the same clip at other times."""

    same_for_all: Mapping[str, Tensor] = {}
    sounds: Sequence[str] = ("mel",)

    def __init__(
        self,
        *,
        clip: ClipSpec,
        windows_per_clip: int = 4,
        min_gap_frames: int = 8,
        sees: WholeFaces | None = None,
        augment: Augment | None = None,
    ) -> None:
        """Args: min_gap_frames: windows of a clip start this far apart or more; closer would be false negatives.
            sees: None: `Lips`.

        Raises: BadConfig, if latents that were made ahead of time are to be changed.
        """
        sees = sees or Lips()
        if augment is not None and "mp4" not in sees.members:
            told = "data.samples.augment changes pictures, and data.samples.sees reads stored latents"
            raise BadConfig(f"{told}; give one of the two")
        self.augment = augment
        self.pictures = (sees.key,)
        self.clip = clip
        self.windows_per_clip = windows_per_clip
        self.min_gap_frames = min_gap_frames
        self.sees = sees
        self.members = (*sees.members, "flac", "json")
        self.parts = sees.parts

    def num_windows(self, num_frames: int) -> int:
        last_start = usable_frames(num_frames, self.clip) - self.clip.num_frames
        return 0 if last_start < 0 else min(self.windows_per_clip, last_start // self.min_gap_frames + 1)

    def __call__(self, sample: Mapping[str, Any], rng: np.random.Generator, wanted: range) -> list[Window]:
        """Return what `sees` gives, `mel` (1, M, L), `id`, `first_frame`. Raises: as `sees`; BadMedia, ClipTooShort."""
        num_frames, waveform = stated_frames(sample), clip_waveform(sample)
        last_start = usable_frames(num_frames, self.clip) - self.clip.num_frames
        starts = spread_starts(last_start, self.num_windows(num_frames), self.min_gap_frames, rng)
        starts = starts[wanted.start : wanted.stop]
        return [
            {**seen, **self.sound(waveform, start), "id": sample["__key__"], "first_frame": start}
            for start, seen in zip(starts, self.sees(sample, starts, self.clip.num_frames), strict=True)
        ]

    def sound(self, waveform: Tensor, first_frame: int) -> dict[str, Tensor]:
        """Return what a window has of the clip's sound, (N,)."""
        return {"mel": heard_mel(waveform, first_frame, self.clip)}


class HeldoutSyncNetSamples(SyncNetSamples):
    """The windows of `SyncNetSamples`, each with the sound around it, among which validation finds its best match.

    That is `mel_around` (offsets, 1, M, L), NaN where the clip lacks some of that sound.
    """

    def __init__(
        self,
        *,
        clip: ClipSpec,
        windows_per_clip: int = 4,
        min_gap_frames: int = 8,
        sees: WholeFaces | None = None,
        max_offset_frames: int = 5,
    ) -> None:
        """Args: max_offset_frames: how many frames earlier and later sound is wanted, in steps of one."""
        super().__init__(clip=clip, windows_per_clip=windows_per_clip, min_gap_frames=min_gap_frames, sees=sees)
        self.offsets = range(-max_offset_frames, max_offset_frames + 1)

    def sound(self, waveform: Tensor, first_frame: int) -> dict[str, Tensor]:
        window = super().sound(waveform, first_frame)
        try:
            around = torch.stack([heard_mel(waveform, first_frame + offset, self.clip) for offset in self.offsets])
        except ClipTooShort:
            around = window["mel"].new_full((len(self.offsets), *window["mel"].shape), torch.nan)
        return {**window, "mel_around": around}


class UNetSamples:
    """Target windows with a reference window that does not overlap them, mask, audio tokens and mel."""

    members: Sequence[str] = ("mp4", "flac", "json")
    parts: Sequence[str] = ()
    pictures: Sequence[str] = ("frames", "reference")
    sounds: Sequence[str] = ()  # losses judge by the true sound

    def __init__(
        self,
        *,
        clip: ClipSpec,
        audio_encoder: AudioEncoder,
        windows_per_clip: int = 1,
        mask: str = "released",
        every_nth_frame: int = 1,
        augment: Augment | None = None,
    ) -> None:
        """Args:
        mask: what is to be generated, one of `media.masks.REGIONS`.
        every_nth_frame: of a window is shown: neighbours look alike, and a network without temporal layers learns more
            from a larger batch of fewer frames each.
        Raises: BadConfig.
        """
        if every_nth_frame < 1:
            raise BadConfig(f"data.samples.every_nth_frame={every_nth_frame}: give 1 or more")
        self.every_nth_frame = every_nth_frame
        self.augment = augment
        self.clip = clip
        self.audio_encoder = audio_encoder
        self.windows_per_clip = windows_per_clip
        self.mask = mask
        self.same_for_all = {"keep_mask": rearrange(keep_mask(clip.resolution, mask), "h w -> 1 h w")}

    def num_windows(self, num_frames: int) -> int:
        return self.windows_per_clip if usable_frames(num_frames, self.clip) >= 2 * self.clip.num_frames else 0

    def starts(self, num_frames: int, rng: np.random.Generator, wanted: range) -> list[tuple[int, int]]:
        """Return the first frames of target and reference of the wanted windows of a clip of so many frames."""
        usable = usable_frames(num_frames, self.clip)
        pairs = [target_and_reference(usable, self.clip, rng) for _ in range(self.windows_per_clip)]
        return pairs[wanted.start : wanted.stop]

    def __call__(self, sample: Mapping[str, Any], rng: np.random.Generator, wanted: range) -> list[Window]:
        """Return rows of `ClipBatch`, frames uint8, `heard` instead of audio tokens. Raises: BadMedia, ClipTooShort."""
        num_frames, waveform = stated_frames(sample), clip_waveform(sample)
        pairs, usable = self.starts(num_frames, rng, wanted), usable_frames(num_frames, self.clip)
        targets, length = [target for target, _ in pairs], self.clip.num_frames
        nth = self.every_nth_frame
        heard = self.audio_encoder.windows_heard(waveform, usable, float(self.clip.fps), targets, length, nth)
        starts = [start for pair in pairs for start in pair]
        decoded = [torch.from_numpy(planes[::nth].copy()) for planes in decode_planes(sample["mp4"], starts, length)]
        return [
            {"frames": frames, "reference": reference, "heard": own, "mel": heard_mel(waveform, target, self.clip)}
            | {"id": sample["__key__"], "first_frame": target}
            for target, frames, reference, own in zip(targets, decoded[::2], decoded[1::2], heard, strict=True)
        ]


def clip_waveform(sample: Mapping[str, Any]) -> Tensor:
    """Return a sample's whole sound, (N,) float32."""
    return torch.from_numpy(decode_flac(sample["flac"]))


def stated_frames(sample: Mapping[str, Any]) -> int:
    """Return how many frames a sample's own facts say it has."""
    return int(json.loads(sample["json"])["num_frames"])


def usable_frames(num_frames: int, clip: ClipSpec) -> int:
    """Return how many frames of a clip have a full mel window as well."""
    num_columns = 1 + clip.num_samples(num_frames) // (clip.sample_rate_hz // clip.mel_hz)
    last_column = num_columns - clip.mel_columns
    last_start = ((last_column + 1) * clip.fps - 1) // clip.mel_hz  # the greatest f with mel_start(f) <= last_column
    return min(num_frames, last_start + clip.num_frames)


def target_and_reference(num_frames: int, clip: ClipSpec, rng: np.random.Generator) -> tuple[int, int]:
    """Return first frames of two windows that do not overlap, the order drawn too, of a clip that can hold both."""
    slack = num_frames - 2 * clip.num_frames
    early, late = sorted(int(x) for x in rng.integers(0, slack + 1, size=2))
    pair = (early, late + clip.num_frames)
    return pair if rng.random() < 0.5 else (pair[1], pair[0])


def spread_starts(last_start: int, count: int, min_gap: int, rng: np.random.Generator) -> list[int]:
    """Return `count` random starts from 0 to `last_start`, at least `min_gap` frames apart, in random order."""
    slack = last_start - (count - 1) * min_gap
    starts = np.sort(rng.integers(0, slack + 1, size=count)) + min_gap * np.arange(count)
    return [int(start) for start in rng.permutation(starts)]
