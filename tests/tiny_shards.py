"""Shards of tiny clips, written without `prepare`, and samples that only tell which windows they are."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data.datamodule import ClipDataModule
from lipsync_lightning.data.samples import Window
from lipsync_lightning.errors import BadMedia
from lipsync_lightning.media.audio import encode_flac
from lipsync_lightning.media.clips import encode_clip
from lipsync_lightning.shards.format import FinishedClip, Sidecar, read_sidecar, write_shard
from lipsync_lightning.shards.reader import survey
from tiny_media import numbered_frames, sound_of

CLIP = ClipSpec(num_frames=4, fps=25, resolution=32, sample_rate_hz=16000, mel_hz=80, num_mels=80)


def members_of(num_frames: int, sound: np.ndarray, clip: ClipSpec = CLIP) -> dict[str, bytes]:
    """Return the members of a clip whose frame k has its number's brightness."""
    video = encode_clip(numbered_frames(num_frames, clip.resolution), fps=clip.fps)
    facts = json.dumps({"num_frames": num_frames}).encode()
    return {"mp4": video, "flac": encode_flac(sound, clip.sample_rate_hz), "json": facts}


def write_real_shards(folder: Path, split: str, lengths: Iterable[Iterable[int]], clip: ClipSpec = CLIP) -> Path:
    """Write a shard for each list of clips' lengths in frames, and return the folder."""
    for number, of_shard in enumerate(lengths):
        clips = [
            FinishedClip(f"{split}/{number}_{row}", length, members_of(length, sound_of(length, range(row, 9)), clip))
            for row, length in enumerate(of_shard)
        ]
        write_shard(folder / split / f"{number:06d}.tar", clips, clip=clip)
    return folder


def write_shards(folder: Path, num_windows: Iterable[Iterable[int]]) -> Path:
    """Write a training shard without media for each list of clips' numbers of windows, and return the folder."""
    for number, of_shard in enumerate(num_windows):
        members = {"mp4": bytes([number]) * 100, "flac": b"flac", "json": b"{}"}
        clips = [FinishedClip(f"d/{number}_{clip}", 10 * count, members) for clip, count in enumerate(of_shard)]
        write_shard(shard_path(folder, number), clips, clip=CLIP)
    return folder


def trainer_of(*, rank: int = 0, ranks: int = 1, accumulate: int = 1) -> Any:
    """What the datamodule asks of a trainer, before the first step."""
    loop = SimpleNamespace(
        epoch_progress=SimpleNamespace(current=SimpleNamespace(ready=0)),
        epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(processed=0))),
    )
    limits = {"limit_train_batches": 1.0, "overfit_batches": 0, "accumulate_grad_batches": accumulate}
    return SimpleNamespace(global_rank=rank, world_size=ranks, fit_loop=loop, is_last_batch=False, **limits)


def shard_path(folder: Path, number: int) -> Path:
    return folder / "train" / f"{number:06d}.tar"


def break_clip(shards: Path, number: int, clip: int) -> None:
    path = shard_path(shards, number)
    content = bytearray(path.read_bytes())
    content[read_sidecar(path).place(clip, "mp4")[0]] ^= 1
    path.write_bytes(content)


class Ids:
    """For each ten frames of a clip one window, that tells which it is, and what was drawn for it."""

    members = ("mp4", "flac", "json")
    parts = ()
    same_for_all: Mapping[str, torch.Tensor] = {}
    augment = None
    pictures = sounds = ()
    undecodable = ""  # key of a clip

    def num_windows(self, num_frames: int) -> int:
        return num_frames // 10

    def __call__(self, sample: Mapping[str, Any], rng: np.random.Generator, wanted: range) -> list[Window]:
        if sample["__key__"] == self.undecodable:
            raise BadMedia("a clip of 3 bytes does not decode")
        draws = rng.integers(1 << 30, size=9)
        return [
            {"id": sample["__key__"], "first_frame": number, "number": number, "draw": int(draws[number]), "value": 1.0}
            for number in wanted
        ]


def data_of(shards: Any, samples: Any = None, **changes: Any) -> ClipDataModule:
    settings: dict[str, Any] = {"batch_size": 2, "num_workers": 0, "seed": 1, "shuffle_buffer": 8, "max_bad_clips": 0}
    return ClipDataModule(
        **{
            "shards": str(shards) if isinstance(shards, Path) else shards,
            "clip": CLIP,
            "samples": samples or Ids(),
            **settings,
            **changes,
        }
    )


def find_shards(folder: str | Path, split: str, clip: ClipSpec) -> list[Sidecar]:
    """The good shards of a split, of which none may be bad."""
    good, bad = survey(str(folder), split, clip, ())
    for error in bad.values():
        raise error
    return list(good.values())
