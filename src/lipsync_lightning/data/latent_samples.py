"""Windows of latents and audio tokens that were computed ahead of time: nothing is decoded."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from einops import rearrange

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data.frame_arrays import read_frames
from lipsync_lightning.data.samples import Window, target_and_reference, usable_frames
from lipsync_lightning.errors import ClipMismatch
from lipsync_lightning.media.masks import keep_mask
from lipsync_lightning.models.audio_encoder import ChunkedAudioEncoder
from lipsync_lightning.models.fingerprint import fingerprint_with_settings

LATENTS, TOKENS = (
    "latents.npy",
    "audio.npy",
)  # members of a clip: (F, 2, 2, C, h, w) whole and masked, mean and deviation; (F, A, D)
ENCODED = "encoded"  # key of a clip's facts: who made these members, and how they are read
HEARD_BY = "audio_encoder"  # key below it: the fingerprint of who made the tokens


class LatentSamples:
    """The windows of `UNetSamples` as `LatentBatch` has them: the same ones of the same clip from the same draws."""

    members = ("json",)
    parts = (LATENTS, TOKENS)

    def __init__(self, *, clip: ClipSpec, audio_encoder: ChunkedAudioEncoder, windows_per_clip: int, mask: str) -> None:
        """Args:
        audio_encoder: the one that tokens were encoded with, and that the U-Net is to hear with later; it computes nothing here.
        mask: what is to be generated, one of `media.masks.REGIONS`; the one that latents were encoded with.
        """
        self.clip = clip
        self.windows_per_clip = windows_per_clip
        self.mask = mask
        self.heard_by = fingerprint_with_settings(audio_encoder)
        self.same_for_all = {"keep_mask": rearrange(keep_mask(clip.resolution, mask), "h w -> 1 h w")}

    def num_windows(self, num_frames: int) -> int:
        return self.windows_per_clip if usable_frames(num_frames, self.clip) >= 2 * self.clip.num_frames else 0

    def __call__(self, sample: Mapping[str, Any], rng: np.random.Generator, wanted: range) -> list[Window]:
        """Return rows of `LatentBatch` but `same_for_all`, latents and tokens in half precision.

        Raises: ClipFault, if a frame is not what was stored; ClipMismatch, for another mask or audio encoder.
        """
        facts = json.loads(sample["json"])
        encoded = facts[ENCODED]
        if encoded["mask"] != self.mask:
            raise ClipMismatch(
                f"{sample['__key__']} was encoded with mask={encoded['mask']}, this run wants {self.mask}; "
                "give data.samples.mask the same, or encode the shards again"
            )
        if encoded[HEARD_BY] != self.heard_by:
            raise ClipMismatch(
                f"the audio tokens of {sample['__key__']} were made by another audio encoder, or one with other settings, than "
                "audio_encoder; encode the shards again with this one (python -m lipsync_lightning.latents), or train with that one"
            )
        usable = usable_frames(int(facts["num_frames"]), self.clip)
        pairs = [target_and_reference(usable, self.clip, rng) for _ in range(self.windows_per_clip)][
            wanted.start : wanted.stop
        ]
        return [self._window(sample, encoded, target, reference) for target, reference in pairs]

    def _window(self, sample: Mapping[str, Any], encoded: Mapping[str, Any], target: int, reference: int) -> Window:
        def frames(suffix: str, first: int) -> torch.Tensor:
            where = f"{sample['__key__']} in {sample['__url__']}: {suffix}"
            return torch.from_numpy(
                read_frames(sample[suffix], encoded[suffix], first, first + self.clip.num_frames, where).copy()
            )

        whole_and_masked = frames(LATENTS, target)
        return {
            "latents": whole_and_masked[:, 0],
            "masked_latents": whole_and_masked[:, 1],
            "reference_latents": frames(LATENTS, reference)[:, 0],
            "audio": frames(TOKENS, target),
            "id": sample["__key__"],
            "made_by": encoded["made_by"],
            "first_frame": target,
        }
