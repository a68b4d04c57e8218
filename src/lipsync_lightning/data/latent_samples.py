"""Windows of latents and audio tokens that were computed ahead of time: nothing is decoded.

Both are arrays with one entry per video frame, stored so that any frames can be read, and checked, without the others.
"""

import json
from collections.abc import Mapping
from io import BytesIO
from math import prod
from typing import Any
from zlib import crc32

import numpy as np
import torch

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data.samples import UNetSamples, Window
from lipsync_lightning.errors import BrokenShard, ClipMismatch
from lipsync_lightning.models.audio_encoder import AudioEncoder
from lipsync_lightning.models.weights_io import fingerprint_with_settings
from lipsync_lightning.shards.reader import StoredPart

LATENTS = "latents.npy"  # (F, 2, 2, C, h, w): of the whole and of the masked frame, mean and deviation
TOKENS = "audio.npy"  # (F, A, D)
ENCODED = "encoded"  # key of a clip's facts: who made these members, and how they are read
ENCODED_AUDIO_BY = "audio_encoder"  # key below it: the fingerprint of who made the tokens
_TYPE = np.dtype("<f2")  # half precision: latents and audio tokens are about of unit variance


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


class LatentSamples(UNetSamples):
    """The windows of `UNetSamples` as `LatentBatch` has them: the same ones of the same clip from the same draws."""

    members = ("json",)
    parts = (LATENTS, TOKENS)

    def __init__(self, *, clip: ClipSpec, audio_encoder: AudioEncoder, windows_per_clip: int, mask: str) -> None:
        """Args:
        audio_encoder: the one that tokens were encoded with, which serves inference later; it computes nothing here.
        mask: what is to be generated, one of `media.masks.REGIONS`; the one that latents were encoded with.
        """
        super().__init__(clip=clip, audio_encoder=audio_encoder, windows_per_clip=windows_per_clip, mask=mask)
        self.audio_fingerprint = fingerprint_with_settings(audio_encoder)

    def __call__(self, sample: Mapping[str, Any], rng: np.random.Generator, wanted: range) -> list[Window]:
        """Return rows of `LatentBatch` but `same_for_all`, latents and tokens in half precision.

        Raises: BrokenShard, if a frame is not what was stored; ClipMismatch, for another mask or audio encoder.
        """
        facts = json.loads(sample["json"])
        encoded = facts[ENCODED]
        if encoded["mask"] != self.mask:
            told = f"{sample['__key__']} was encoded with mask={encoded['mask']}, this run wants {self.mask}"
            raise ClipMismatch(f"{told}; set data.samples.mask to the same, or encode the shards again")
        if encoded[ENCODED_AUDIO_BY] != self.audio_fingerprint:
            told = f"the audio tokens of {sample['__key__']} were made by another audio encoder, or other settings"
            raise ClipMismatch(f"{told}; train with that one, or encode the shards again")

        def frames(suffix: str, first: int) -> torch.Tensor:
            stored = read_frames(sample[suffix], encoded[suffix], first, first + self.clip.num_frames)
            return torch.from_numpy(stored.copy())

        windows = []
        for target, reference in self.starts(int(facts["num_frames"]), rng, wanted):
            latents, masked_latents = frames(LATENTS, target).unbind(1)
            window = {"latents": latents, "masked_latents": masked_latents, "audio": frames(TOKENS, target)}
            window |= {"reference_latents": frames(LATENTS, reference)[:, 0], "made_by": encoded["made_by"]}
            windows.append({**window, "id": sample["__key__"], "first_frame": target})
        return windows
