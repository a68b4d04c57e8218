"""Where every clip of a data set lies, so that any of them can be read without the ones before it."""

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from webdataset.tariterators import base_plus_ext

from lipsync_lightning.errors import BrokenShard
from lipsync_lightning.preparation.shards import Shard

MEMBERS = ("mp4", "flac", "json")


class ClipIndex:
    """The clips of some shards, in the order in which they are stored. Arrays, because a data set may hold millions."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        """Raises: BrokenShard, if a shard cannot be read, or does not hold what its sidecar says."""
        self.shards = list(shards)
        keys, places, frames, shard_of = [], [], [], []
        for number, shard in enumerate(self.shards):
            found = _clips_of(shard)
            keys += [key for key, _, _ in found]
            places += [places_of_members for _, places_of_members, _ in found]
            frames += [num_frames for _, _, num_frames in found]
            shard_of += [number] * len(found)
        self.keys = np.array(keys)
        self.places = np.array(places, dtype=np.int64).reshape(-1, len(MEMBERS), 2)  # first byte and number of bytes of each member
        self.num_frames = np.array(frames, dtype=np.int64)
        self.shard_of = np.array(shard_of, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, clip: int) -> dict[str, Any]:
        """Return the members of a clip as bytes, by their suffix, with `__key__` and `__url__` as webdataset has them.

        Raises: BrokenShard, if the shard is no longer what it was.
        """
        path = self.shards[self.shard_of[clip]].path
        try:
            with path.open("rb") as file:
                members = {suffix: _read_at(file, *place) for suffix, place in zip(MEMBERS, self.places[clip].tolist(), strict=True)}
        except (OSError, EOFError) as error:
            raise BrokenShard(f"{path} cannot be read: {error}; delete it and run `prepare` again") from error
        return {"__key__": str(self.keys[clip]), "__url__": str(path), **members}


def _clips_of(shard: Shard) -> list[tuple[str, list[tuple[int, int]], int]]:
    """Key, place of each member and number of frames of the clips of one shard."""
    try:
        with tarfile.open(shard.path) as archive:
            members: dict[str, dict[str, tarfile.TarInfo]] = {}
            for member in archive:
                key, suffix = base_plus_ext(member.name)
                members.setdefault(str(key), {})[str(suffix)] = member
            clips = [_clip(archive, shard.path, key, by_suffix) for key, by_suffix in members.items()]
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        raise BrokenShard(f"{shard.path} cannot be read: {error}; delete it and run `prepare` again") from error
    if len(clips) != shard.num_samples:
        raise BrokenShard(f"{shard.path} holds {len(clips)} clips, its sidecar says {shard.num_samples}; delete it and run `prepare` again")
    return clips


def _clip(archive: tarfile.TarFile, path: Path, key: str, members: dict[str, tarfile.TarInfo]) -> tuple[str, list[tuple[int, int]], int]:
    missing = [suffix for suffix in MEMBERS if suffix not in members]
    if missing:
        raise BrokenShard(f"{key} in {path}: no {missing[0]!r} member (has {sorted(members)}); run `prepare` again")
    facts = archive.extractfile(members["json"])
    assert facts is not None  # a regular file
    places = [(members[suffix].offset_data, members[suffix].size) for suffix in MEMBERS]
    return key, places, int(json.loads(facts.read())["num_frames"])


def _read_at(file: Any, first: int, size: int) -> bytes:
    file.seek(first)
    content = file.read(size)
    if len(content) != size:
        raise EOFError(f"{size} bytes wanted at {first}, {len(content)} there")
    return content
