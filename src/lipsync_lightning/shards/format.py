"""The shard format: a webdataset tar of self-contained clips, and beside it a json, its sidecar, that says what it has.

Members of a clip: `{key}.mp4` (aligned face, H.264, closed GOP of 12), `{key}.flac` (mono), `{key}.json` (its origin)
and, made ahead of time, `{key}.latents.npy` and `{key}.states.npy`. A key has no dots: webdataset ends it at the first.
A tar cut at a member boundary ends silently, so a shard without a matching sidecar is never read.
"""

import hashlib
import json
import re
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from webdataset.writer import TarWriter

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BrokenShard, ClipMismatch, MissingShards
from lipsync_lightning.files import sha256_of, whole_file, write_atomically

FORMAT = 2  # 1 did not say where members lie
SPLITS = ("train", "heldout")
_ABSENT = (-1, -1, -1)
MAKE_AGAIN = "copy both again, or delete both and run `prepare` again"
# Folders and key without dots and backslashes, then the suffix: neither outside a folder nor ambiguous.
_MEMBER = re.compile(r"(?![A-Za-z]:)[^./\\\0]+(/[^./\\\0]+)*(\.[a-z0-9][a-z0-9_]*)+")


@dataclass(frozen=True)
class FinishedClip:
    """One aligned clip, ready to be written."""

    key: str
    num_frames: int
    members: Mapping[str, bytes]  # by suffix

    @property
    def sha256(self) -> str:
        """Of its members' bytes, one after another in the order of their suffixes, as in the tar."""
        return hashlib.sha256(b"".join(data for _, data in sorted(self.members.items()))).hexdigest()


@dataclass(frozen=True, eq=False)
class Sidecar:
    """What a shard must hold, and where it lies. Arrays, because a data set may have millions of clips."""

    location: str  # path or URL of the shard
    num_bytes: int
    sha256: str
    clip: ClipSpec
    keys: np.ndarray  # (clips,), text
    num_frames: np.ndarray  # (clips,), int64
    suffixes: tuple[str, ...]  # of all members that any clip has
    places: np.ndarray  # (clips, suffixes, 3), int64: first byte, number of bytes, crc32; -1 where a member is lacking

    @property
    def path(self) -> Path:
        return Path(self.location)

    @property
    def name(self) -> str:
        """Its name within the data set, such as train/000000.tar."""
        return "/".join(self.location.split("/")[-2:])

    @property
    def num_samples(self) -> int:
        return len(self.keys)

    def place(self, number: int, suffix: str) -> tuple[int, int, int]:
        """Return first byte, number of bytes and crc32 of a member of the clip at a row."""
        first, size, crc = self.places[number, self.suffixes.index(suffix)].tolist()
        return first, size, crc

    def require_members(self, suffixes: Iterable[str]) -> None:
        """Raises: BrokenShard, if any clip lacks one of these members."""
        for suffix in suffixes:
            known = suffix in self.suffixes
            lacking = self.places[:, self.suffixes.index(suffix), 0] < 0 if known else self.keys != ""
            if lacking.any():
                where = f"{self.keys[lacking.argmax()]} in {self.location}"
                command = "latents" if suffix.endswith(".npy") else "prepare"
                raise BrokenShard(f"{where}: no {suffix!r} member; run `{command}` again", "member missing")

    def require_fits(self, num_bytes: int | None, clip: ClipSpec) -> None:
        """Check the size of the shard, None where there is none, and that `clip` can be cut from it.

        Raises: BrokenShard, ClipMismatch.
        """
        if num_bytes is None:
            raise BrokenShard(f"{self.location} is missing, its sidecar is there; {MAKE_AGAIN}", "missing")
        if num_bytes != self.num_bytes:
            told = f"{self.location} has {num_bytes} bytes, its sidecar says {self.num_bytes}; {MAKE_AGAIN}"
            raise BrokenShard(told, "truncated" if num_bytes < self.num_bytes else "wrong size")
        self.clip.require_same_recording(clip, self.location, "this run")


def sidecar_path(shard: Path) -> Path:
    return shard.with_suffix(".json")


def write_shard(path: Path, clips: Iterable[FinishedClip], *, clip: ClipSpec) -> Sidecar:
    """Write a shard and its sidecar, whole or not at all, and return the sidecar. The same clips give the same bytes.

    Raises: BrokenShard, if a key or suffix is unsafe or ambiguous as a file's name, or is there twice.
    """
    rows: dict[str, dict[str, Any]] = {}
    with whole_file(path) as part:
        owner = {"user": "", "group": "", "mode": 0o644, "mtime": 0}
        with part.open("wb") as file, TarWriter(file, encoder=False, **owner) as writer:
            for finished in clips:
                for suffix in finished.members:
                    require_safe_name(finished.key, suffix, path)
                if finished.key in rows:
                    raise BrokenShard(f"{path}: {finished.key} would be written twice", "there twice")
                crcs = {suffix: crc32(data) for suffix, data in sorted(finished.members.items())}
                rows[finished.key] = {"key": finished.key, "num_frames": finished.num_frames, "members": crcs}
                writer.write({"__key__": finished.key, **finished.members})
        with tarfile.open(part) as archive:
            for member in archive:
                key, _, suffix = member.name.partition(".")
                members = rows[key]["members"]
                members[suffix] = (member.offset_data, member.size, members[suffix])
        facts = {"num_samples": len(rows), "num_bytes": part.stat().st_size, "sha256": sha256_of(part)}
        sidecar_path(path).unlink(missing_ok=True)  # so that it never stands beside another shard's content
    stored = {"format": FORMAT, **facts, "clip": clip.as_dict(), "clips": list(rows.values())}
    text = json.dumps(stored, ensure_ascii=False).encode()
    write_atomically(sidecar_path(path), text)
    return parse_sidecar(text, str(path))


def require_safe_name(key: str, suffix: str, source: object) -> None:
    """Raises: BrokenShard, if `{key}.{suffix}` could be a file outside a folder, or taken for that of another clip."""
    if "." in key or not _MEMBER.fullmatch(f"{key}.{suffix}"):
        told = f"{source}: no member may be called {f'{key}.{suffix}'!r} (no absolute path, no dot in the key)"
        raise BrokenShard(told, "unsafe name")


def parse_sidecar(text: bytes, location: str) -> Sidecar:
    """Return the sidecar of the shard at a location. Raises: BrokenShard, if it is not ours or of another format."""
    try:
        stored = json.loads(text)
        if stored.get("format") != FORMAT:
            raise ValueError(f"it has format {stored.get('format')}, format {FORMAT} is wanted")
        rows = stored["clips"]
        suffixes = tuple(dict.fromkeys(suffix for row in rows for suffix in row["members"]))
        places = [[row["members"].get(suffix, _ABSENT) for suffix in suffixes] for row in rows]
        return Sidecar(
            location=location,
            num_bytes=int(stored["num_bytes"]),
            sha256=str(stored["sha256"]),
            clip=ClipSpec.from_dict(stored["clip"], "its clip"),
            keys=np.array([row["key"] for row in rows], dtype=np.dtypes.StringDType()),
            num_frames=np.array([row["num_frames"] for row in rows], dtype=np.int64),
            suffixes=suffixes,
            places=np.array(places, dtype=np.int64).reshape(len(rows), len(suffixes), 3),
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, ClipMismatch) as error:
        told = f"the json beside {location} is not a shard's sidecar ({error}); {MAKE_AGAIN}"
        raise BrokenShard(told, "sidecar not ours") from error


def read_sidecar(shard: Path) -> Sidecar:
    """Return a local shard's sidecar. Raises: BrokenShard, if it is missing, or not one of ours."""
    try:
        text = sidecar_path(shard).read_bytes()
    except OSError as error:
        told = f"{shard} has no sidecar {sidecar_path(shard).name} beside it ({error.strerror}); {MAKE_AGAIN}"
        raise BrokenShard(told, "without sidecar") from error
    return parse_sidecar(text, str(shard))


def is_whole(path: Path) -> bool:
    """Return whether a local shard and its sidecar are there, and the shard has the size that the sidecar says."""
    try:
        return path.stat().st_size == read_sidecar(path).num_bytes
    except (OSError, BrokenShard):
        return False


def not_prepared(folder: object) -> MissingShards:
    return MissingShards(
        f"no shards at {folder} (no {' or '.join(SPLITS)} folder there); make them with: "
        f"python -m lipsync_lightning.prepare recipe=folder recipe.source=<folder of videos> out={folder}"
    )
