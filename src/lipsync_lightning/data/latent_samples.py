"""Windows of latents and audio states that were computed ahead of time: no picture is decoded.

Both are arrays in rows along time, stored so that any rows can be read, and checked, without the others.
"""

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from math import prod
from typing import Any
from zlib import crc32

import numpy as np
import torch

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data.samples import UNetSamples, WholeFaces, Window
from lipsync_lightning.errors import BrokenShard, ClipMismatch
from lipsync_lightning.models.audio_encoder import AudioEncoder
from lipsync_lightning.models.weights_io import fingerprint_with_settings
from lipsync_lightning.shards.reader import StoredPart

LATENTS = "latents.npy"  # (F, 2, 2, C, h, w): of the whole and of the masked frame, mean and deviation
STATES = "states.npy"  # (R, ...), `SoundStates` of the audio encoder; tokens, which overlap, would take five times that
ENCODED = "encoded"  # key of a clip's facts: who made these members, and how they are read
ENCODED_AUDIO_BY = "states_by"  # key below it: the fingerprint of who made the states
_TYPE = np.dtype("<f2")  # half precision: latents and audio states are about of unit variance


def stored_array(frames: np.ndarray) -> tuple[bytes, dict[str, Any]]:
    """Return an array (F, ...) as a .npy file's content, in half precision, and the facts that `read_frames` needs.

    Raises: ValueError, if a value is not finite in half precision.
    """
    halves = np.ascontiguousarray(frames, dtype=_TYPE)
    if not np.isfinite(halves).all():
        raise ValueError(f"an array of shape {frames.shape} is beyond half precision, up to {np.abs(frames).max():g}")
    content = BytesIO()
    np.save(content, halves)
    return content.getvalue(), {"shape": list(halves.shape), "crc32": [crc32(frame.tobytes()) for frame in halves]}


def read_frames(part: StoredPart, facts: Mapping[str, Any], first: int, last: int) -> np.ndarray:
    """Return frames `first` to `last - 1` of a stored array, (last - first, ...), float16.

    Args: facts: from `stored_array`.
    Raises: BrokenShard, if a frame is not what was stored.
    """
    num_frames, *shape = facts["shape"]
    frame_size = prod(shape) * _TYPE.itemsize
    header_size = part.size - num_frames * frame_size
    content = part(header_size + first * frame_size, (last - first) * frame_size)
    frames = np.frombuffer(content, _TYPE).reshape(last - first, *shape)
    for number, frame in enumerate(frames, start=first):
        if crc32(frame.tobytes()) != facts["crc32"][number]:
            raise BrokenShard(f"{part.where}: frame {number} has another crc32 than was stored; encode the shard again")
    return frames


def posteriors(sample: Mapping[str, Any], first: int, num_frames: int) -> torch.Tensor:
    """Return stored latents of some frames, (T, 2, 2, C, h, w), as `LATENTS` has them."""
    facts = json.loads(sample["json"])[ENCODED]
    return torch.from_numpy(read_frames(sample[LATENTS], facts[LATENTS], first, first + num_frames).copy())


class LatentSamples(UNetSamples):
    """The windows of `UNetSamples` as `LatentBatch` has them: the same ones of the same clip from the same draws."""

    members = ("json",)
    parts = (LATENTS, STATES)

    def __init__(
        self,
        *,
        clip: ClipSpec,
        audio_encoder: AudioEncoder,
        windows_per_clip: int,
        mask: str,
        every_nth_frame: int = 1,
    ) -> None:
        """Args:
        audio_encoder: the one that made the states; here it only picks those that a frame hears.
        mask: what is to be generated, one of `media.masks.REGIONS`; the one that latents were encoded with.
        every_nth_frame: see `UNetSamples`.
        """
        super().__init__(
            clip=clip,
            audio_encoder=audio_encoder,
            windows_per_clip=windows_per_clip,
            mask=mask,
            every_nth_frame=every_nth_frame,
        )
        self.audio_fingerprint = fingerprint_with_settings(audio_encoder)

    def __call__(self, sample: Mapping[str, Any], rng: np.random.Generator, wanted: range) -> list[Window]:
        """Return rows of `LatentBatch` but `same_for_all`, latents in half precision.

        Raises: BrokenShard, if a frame is not what was stored; ClipMismatch, for another mask or audio encoder.
        """
        facts = json.loads(sample["json"])
        encoded = facts[ENCODED]
        if encoded["mask"] != self.mask:
            told = f"{sample['__key__']} was encoded with mask={encoded['mask']}, this run wants {self.mask}"
            raise ClipMismatch(f"{told}; set data.samples.mask to the same, or encode the shards again")
        if encoded[ENCODED_AUDIO_BY] != self.audio_fingerprint:
            told = f"the audio states of {sample['__key__']} were made by another audio encoder, or other settings"
            raise ClipMismatch(f"{told}; train with that one, or encode the shards again")
        windows = []
        for target, reference in self.starts(int(facts["num_frames"]), rng, wanted):
            latents, masked_latents = self._posteriors(sample, target).unbind(1)
            reference_latents = self._posteriors(sample, reference)[:, 0]
            window = {"latents": latents, "masked_latents": masked_latents, "reference_latents": reference_latents}
            window |= {"made_by": encoded["made_by"], "audio": self._tokens(sample[STATES], encoded[STATES], target)}
            windows.append({**window, "id": sample["__key__"], "first_frame": target})
        return windows

    def _posteriors(self, sample: Mapping[str, Any], first: int) -> torch.Tensor:
        return posteriors(sample, first, self.clip.num_frames)[:: self.every_nth_frame]

    def _tokens(self, states: StoredPart, facts: Mapping[str, Any], target: int) -> torch.Tensor:
        """Return the tokens (T, A, D) of a window."""
        frames = range(target, target + self.clip.num_frames, self.every_nth_frame)
        rows_TR = self.audio_encoder.rows(frames, float(self.clip.fps), facts["shape"][0])
        first, last = int(rows_TR.min()), int(rows_TR.max())
        stored = torch.from_numpy(read_frames(states, facts, first, last + 1).astype(np.float32))
        return self.audio_encoder.rows_to_tokens(stored[rows_TR - first])


class StoredFaces(WholeFaces):
    """What a SyncNet of latents looks at, encoded ahead of time: `latents` (T, 2, C, h, w) and `made_by`."""

    members = ()
    parts = (LATENTS,)

    def __call__(self, sample: Mapping[str, Any], starts: Sequence[int], num_frames: int) -> list[Window]:
        """Return what the windows of a clip show. Raises: BrokenShard."""
        made_by = json.loads(sample["json"])[ENCODED]["made_by"]
        return [{"latents": posteriors(sample, start, num_frames)[:, 0], "made_by": made_by} for start in starts]
