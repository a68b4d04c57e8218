"""A pass over shards that adds latents and audio states to every clip, so that no training need compute them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm import tqdm

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data.latent_samples import ENCODED, ENCODED_AUDIO_BY, LATENTS, STATES, stored_array
from lipsync_lightning.data.samples import clip_waveform, stated_frames
from lipsync_lightning.errors import BadConfig, WouldOverwrite
from lipsync_lightning.media.clips import decode_planes
from lipsync_lightning.media.frames import to_float
from lipsync_lightning.media.masks import keep_mask
from lipsync_lightning.models.autoencoder import encoder_fingerprint
from lipsync_lightning.models.weights_io import fingerprint_with_settings, frozen, store_in
from lipsync_lightning.shards.format import SPLITS, FinishedClip, Sidecar, is_whole, read_sidecar, write_shard
from lipsync_lightning.shards.reader import MEMBERS, ClipIndex, survey
from lipsync_lightning.threads import ahead

_SOURCE = "source_sha256"  # of the shard that a clip was encoded from, in its facts


class ClipEncoder:
    """What is computed of a clip, on a device."""

    def __init__(
        self,
        *,
        clip: ClipSpec,
        autoencoder: Any,  # models.autoencoder.Autoencoder and a module
        audio_encoder: Any,  # models.audio_encoder.AudioEncoder
        mask: str,
        batch_size: int,
        device: str,
        dtype: str,
    ) -> None:
        """Args: batch_size: frames at a time; dtype: torch's name of the type in which the autoencoder computes."""
        self.facts = {"made_by": encoder_fingerprint(autoencoder), "mask": mask}
        self.facts[ENCODED_AUDIO_BY] = fingerprint_with_settings(audio_encoder)
        self.clip, self.batch_size, self.device = clip, batch_size, device
        self.autoencoder = frozen(autoencoder).to(device)
        store_in(getattr(torch, dtype), self.autoencoder)
        self.audio_encoder = audio_encoder.to(device)
        self.keep_mask = keep_mask(clip.resolution, mask).to(device)

    @torch.no_grad()
    def __call__(self, faces: np.ndarray, waveform: Tensor) -> dict[str, np.ndarray]:
        """Return what `latent_samples` reads, of faces (F, 3, H, W), uint8, and sound (N,)."""
        pieces = []
        for piece in torch.from_numpy(faces).split(self.batch_size):
            frames = to_float(piece.to(self.device))
            both = torch.cat([frames, frames * self.keep_mask]).to(self.autoencoder.dtype)
            moments = torch.stack(self.autoencoder.posterior(both))
            pieces.append(rearrange(moments, "m (k f) c h w -> f k m c h w", k=2).float().cpu().numpy())
        states = self.audio_encoder.sound_states(waveform, len(faces), float(self.clip.fps)).all()
        return {LATENTS: np.concatenate(pieces), STATES: states.float().cpu().numpy()}


def encode_shards(shards: str, out: Path, encoder: ClipEncoder) -> tuple[int, int]:
    """Write every shard of a data set again under `out`, with the encoder's members added to each clip.

    A shard that is whole there is not made again, unless its source was remade since: an interrupted pass goes on.
    A shard that another process is encoding is passed over, so processes with the same arguments share the work.

    Returns: number of shards that are encoded now, and of those that other processes are encoding.
    Raises: BadConfig, if `out` is the data set itself; WouldOverwrite, if it was encoded otherwise; MissingShards;
    BrokenShard.
    """
    if out.resolve() == Path(shards).resolve():
        raise BadConfig(f"out={out} is the data set itself; choose a folder beside it")
    facts = encoder.facts
    found: dict[Path, Sidecar] = {}
    for split in SPLITS:
        good, bad = survey(shards, split, encoder.clip, MEMBERS)
        for error in bad.values():
            raise error
        found |= {out / name: shard for name, shard in good.items()}
    num_elsewhere = 0
    for target, shard in tqdm(found.items(), desc="encode", unit="shard"):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(target.with_suffix(".lock"), blocking=False):
                if not _is_made_of(shard, target, facts):
                    write_shard(target, _encoded(shard, encoder, facts), clip=encoder.clip)
        except Timeout:
            num_elsewhere += 1
    return len(found) - num_elsewhere, num_elsewhere


def _is_made_of(shard: Sidecar, target: Path, facts: dict[str, str]) -> bool:
    """Return whether a whole shard is there that was encoded from this one, and not from a former one of its name.

    Raises: WouldOverwrite, if it was encoded with anything else than `facts` say.
    """
    if not is_whole(target):
        return False
    encoded = json.loads(ClipIndex([read_sidecar(target)], members=("json",)).read(0)["json"]).get(ENCODED, {})
    differing = [name for name in facts if encoded.get(name) != facts[name]]
    if differing:
        raise WouldOverwrite(f"{target} was encoded with another {' and '.join(differing)}; choose another out=")
    return encoded[_SOURCE] == shard.sha256


def _encoded(shard: Sidecar, encoder: ClipEncoder, facts: dict[str, str]) -> Iterator[FinishedClip]:
    for sample, faces, waveform in ahead(_decoded(ClipIndex([shard])), 1):
        encoded: dict[str, Any] = {**facts, _SOURCE: shard.sha256}
        members = {"mp4": sample["mp4"], "flac": sample["flac"]}
        for suffix, array in encoder(faces, waveform).items():
            members[suffix], encoded[suffix] = stored_array(array)
        members["json"] = json.dumps({**json.loads(sample["json"]), ENCODED: encoded}, sort_keys=True).encode()
        yield FinishedClip(sample["__key__"], len(faces), members)


def _decoded(index: ClipIndex) -> Iterator[tuple[dict[str, Any], np.ndarray, Tensor]]:
    """Yield each clip with its faces (F, 3, H, W) and its sound (N,)."""
    for number in range(len(index)):
        sample = index.read(number)
        yield sample, decode_planes(sample["mp4"], [0], stated_frames(sample))[0], clip_waveform(sample)
