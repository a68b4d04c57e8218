"""A pass over shards that adds latents and audio tokens to every clip, so that stage 1 need not compute them at every step."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from filelock import FileLock, Timeout
from tqdm import tqdm

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data.frame_arrays import stored_array
from lipsync_lightning.data.latent_samples import ENCODED, HEARD_BY, LATENTS, TOKENS
from lipsync_lightning.data.samples import clip_waveform, frames_tensor, stated_frames, to_float
from lipsync_lightning.errors import BadConfig, BrokenShard, WouldOverwrite
from lipsync_lightning.files import write_atomically
from lipsync_lightning.media.masks import keep_mask
from lipsync_lightning.media.video import decode_window
from lipsync_lightning.models.audio_encoder import ChunkedAudioEncoder
from lipsync_lightning.models.autoencoder import Autoencoder
from lipsync_lightning.models.fingerprint import fingerprint, fingerprint_with_settings
from lipsync_lightning.shards.format import (
    SPLITS,
    FinishedClip,
    Shard,
    ShardFile,
    find_shards,
    is_whole,
    read_sidecar,
    write_shard,
)
from lipsync_lightning.shards.reader import ClipIndex

_FACTS = "encoded.json"  # in the folder: what all its shards were made with
_SOURCE = "source_sha256"  # of the shard that a clip was encoded from, in its facts


@dataclass(frozen=True, kw_only=True)
class EncodedSoFar:
    """How far a data set has come."""

    num_done: int  # shards
    num_elsewhere: int  # shards that other processes are encoding


@dataclass(frozen=True, kw_only=True)
class ClipEncoder:
    """What is computed of a clip."""

    clip: ClipSpec
    autoencoder: Any  # models.autoencoder.Autoencoder and a module
    audio_encoder: ChunkedAudioEncoder
    mask: str
    batch_size: int  # frames at a time
    device: str

    @property
    def facts(self) -> dict[str, Any]:
        return {
            "made_by": fingerprint(self.autoencoder),
            "mask": self.mask,
            HEARD_BY: fingerprint_with_settings(self.audio_encoder),
        }

    @torch.no_grad()
    def __call__(self, sample: dict[str, Any]) -> dict[str, np.ndarray]:
        """Return `latents.npy` (F, 2, 2, C, h, w): of the whole and of the masked frame, mean and deviation; `audio.npy` (F, A, D)."""
        num_frames = stated_frames(sample)
        frames = frames_tensor(decode_window(sample["mp4"], 0, num_frames))
        keep = keep_mask(self.clip.resolution, self.mask).to(self.device)
        pieces = [self._posteriors(to_float(piece.to(self.device)), keep) for piece in frames.split(self.batch_size)]
        tokens = self.audio_encoder.tokens(clip_waveform(sample), num_frames, fps=float(self.clip.fps))
        return {LATENTS: np.concatenate(pieces), TOKENS: tokens.float().cpu().numpy()}

    def _posteriors(self, frames: torch.Tensor, keep: torch.Tensor) -> np.ndarray:
        autoencoder: Autoencoder = self.autoencoder
        mean, std = autoencoder.posterior(torch.cat([frames, frames * keep]))
        return rearrange(torch.stack([mean, std]), "m (k f) c h w -> f k m c h w", k=2).float().cpu().numpy()


def encode_shards(shards: str, out: Path, encoder: ClipEncoder) -> EncodedSoFar:
    """Write every shard of a data set again under `out`, with the encoder's members added to each clip, and return how far that has come.

    A shard that is whole there is not made again, unless the one it was made of was remade since: an interrupted pass goes on. A shard
    that another process is encoding is passed over, so that processes that are given the same share the work.

    Raises: BadConfig, if `out` is the data set itself; WouldOverwrite, if `out` was encoded otherwise; MissingShards, ShardFault and
    ClipFault, if the shards are not what they should be.
    """
    if out.resolve() == Path(shards).resolve():
        raise BadConfig(f"out={out} is the data set itself; choose a folder beside it")
    facts = encoder.facts
    _claim(out, facts)
    found = [
        (shard, out / split / shard.path.name) for split in SPLITS for shard in find_shards(shards, split, encoder.clip)
    ]
    passed_over = [pair for pair in tqdm(found, desc="encode", unit="shard") if not _finish(*pair, encoder, facts)]
    elsewhere = [
        pair for pair in passed_over if not _finish(*pair, encoder, facts)
    ]  # meanwhile done, or let go of undone
    return EncodedSoFar(num_done=len(found) - len(elsewhere), num_elsewhere=len(elsewhere))


def _finish(shard: Shard, target: Path, encoder: ClipEncoder, facts: dict[str, Any]) -> bool:
    """Encode a shard that is not encoded yet, and return True; or False, if another process is at it."""
    if _is_made_of(shard, target):
        return True
    lock = target.with_name(f".{target.stem}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, blocking=False):
            if not _is_made_of(shard, target):  # or another process has finished it since we looked
                write_shard(target, _encoded(shard, encoder, facts), clip=encoder.clip)
            # Safe only now: whoever still has the removed file, or makes it anew, gets a lock but finds the shard done.
            lock.unlink(missing_ok=True)
    except Timeout:
        return False
    return True


def _is_made_of(shard: Shard, target: Path) -> bool:
    """Return whether a whole shard is there that was encoded from this one, and not from a former one of its name."""
    if not is_whole(target):
        return False
    sidecar = read_sidecar(target)
    index = ClipIndex([Shard(ShardFile(str(target), sidecar.num_bytes, sidecar.sha256), sidecar)], members=("json",))
    try:
        return json.loads(index.read(0)["json"]).get(ENCODED, {}).get(_SOURCE) == shard.file.sha256
    except BrokenShard:
        return False


def _encoded(shard: Shard, encoder: ClipEncoder, facts: dict[str, Any]) -> Iterator[FinishedClip]:
    index = ClipIndex([shard])
    for number in range(len(index)):
        sample = index.read(number)
        own_facts, members = json.loads(sample["json"]), {}
        encoded = {**facts, _SOURCE: shard.file.sha256}
        for suffix, array in encoder(sample).items():
            members[suffix], encoded[suffix] = stored_array(array)
        text = json.dumps({**own_facts, ENCODED: encoded}, sort_keys=True).encode()
        kept = {suffix: sample[suffix] for suffix in ("mp4", "flac")}
        yield FinishedClip(sample["__key__"], int(index.num_frames[number]), {**kept, "json": text, **members})


def _claim(out: Path, facts: dict[str, Any]) -> None:
    path = out / _FACTS
    if any(out.glob("*/*.tar")) and not path.is_file():
        raise WouldOverwrite(f"{out} holds shards that were not encoded here; choose another out=")
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".encoded.lock"):  # processes that begin together must not write it together
        if not path.is_file():
            write_atomically(path, json.dumps(facts).encode())
    if json.loads(path.read_text()) != facts:
        raise WouldOverwrite(
            f"{out} was encoded with other networks or another mask: {path.read_text()}; choose another out="
        )
