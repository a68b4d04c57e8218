"""The shard format: a tar of self-contained clips, and beside it a json, the sidecar, that says what the tar must hold, and where.

Members of a clip: `{key}.mp4` (aligned face, H.264, closed GOP of 12), `{key}.flac` (mono), `{key}.json` (where it comes from), and, made
ahead of time, `{key}.latents.npy` and `{key}.audio.npy`. A key has no dots, because webdataset ends it at the first one.
A tar cut at a member boundary ends silently, so a shard without a matching sidecar is never read.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np
from webdataset.tariterators import base_plus_ext

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BrokenShard, MissingShards
from lipsync_lightning.files import sha256_of, write_atomically
from lipsync_lightning.shards.faults import Reason, ShardFault, require_safe_names

FORMAT = 2  # 1 did not say where members lie
SPLITS = ("train", "heldout")
_KEYS = np.dtypes.StringDType()
_ABSENT = (-1, -1, -1)
_MAKE_AGAIN = "run `prepare` again to remake the shard"


@dataclass(frozen=True)
class FinishedClip:
    """One aligned clip, ready to be written."""

    key: str
    num_frames: int
    members: Mapping[str, bytes]  # by suffix

    @property
    def sha256(self) -> str:
        """Of its members' bytes, one after another in the order of their suffixes, as in the tar."""
        digest = hashlib.sha256()
        for _, data in sorted(self.members.items()):
            digest.update(data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Sidecar:
    """What a shard must hold. Arrays, because a data set may have millions of clips."""

    num_bytes: int
    sha256: str
    clip: dict[str, int]
    keys: np.ndarray  # (clips,), text
    num_frames: np.ndarray  # (clips,), int64
    suffixes: tuple[str, ...]  # of all members that any clip has
    places: (
        np.ndarray
    )  # (clips, suffixes, 3), int64: first byte, number of bytes and crc32; -1 where a clip lacks the member

    @property
    def num_samples(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class ShardFile:
    """Where a shard lies, and how it is known again."""

    location: str  # path or URL
    num_bytes: int
    sha256: str

    @property
    def path(self) -> Path:
        return Path(self.location)

    @property
    def name(self) -> str:
        """Its name within the data set, such as train/000000.tar."""
        return "/".join(self.location.split("/")[-2:])


@dataclass(frozen=True)
class Shard:
    """A shard that fits its sidecar, as far as its size tells."""

    file: ShardFile
    sidecar: Sidecar

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def num_samples(self) -> int:
        return self.sidecar.num_samples


def sidecar_path(shard: Path) -> Path:
    return shard.with_suffix(".json")


def write_shard(path: Path, clips: Iterable[FinishedClip], *, clip: ClipSpec) -> Sidecar:
    """Write a shard and its sidecar, whole or not at all, and return the sidecar. The same clips give the same bytes.

    Raises: BrokenShard, if a key or suffix would be unsafe or ambiguous as a file's name, or is there twice.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    rows: dict[str, Any] = {}
    try:
        with part.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for finished in clips:
                require_safe_names(finished.key, finished.members, path)
                if finished.key in rows:
                    raise ShardFault(f"{path}: {finished.key} is to be written twice", Reason.TWICE)
                places = {
                    suffix: _add_member(archive, file, f"{finished.key}.{suffix}", data)
                    for suffix, data in sorted(finished.members.items())
                }
                rows[finished.key] = {"key": finished.key, "num_frames": finished.num_frames, "members": places}
        stored = {
            "format": FORMAT,
            "num_samples": len(rows),
            "num_bytes": part.stat().st_size,
            "sha256": sha256_of(part),
        }
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    text = json.dumps({**stored, "clip": clip.as_dict(), "clips": list(rows.values())}, ensure_ascii=False)
    write_atomically(sidecar_path(path), text.encode())
    return parse_sidecar(text, sidecar_path(path))


def parse_sidecar(text: str | bytes, source: object) -> Sidecar:
    """Return the sidecar with this content. Raises: ShardFault, naming `source`, if it is none of ours, or none of this format."""
    try:
        stored = json.loads(text)
        if stored.get("format") != FORMAT:
            found = f"has format {stored.get('format', 1)}" if "sha256" in stored else "is not a shard's sidecar"
            raise ShardFault(f"{source} {found}, format {FORMAT} is wanted; {_MAKE_AGAIN}", Reason.NOT_OURS)
        rows = stored["clips"]
        suffixes = tuple(dict.fromkeys(suffix for row in rows for suffix in row["members"]))
        places = [[row["members"].get(suffix, _ABSENT) for suffix in suffixes] for row in rows]
        sidecar = Sidecar(
            num_bytes=int(stored["num_bytes"]),
            sha256=str(stored["sha256"]),
            clip=dict(stored["clip"]),
            keys=np.array([row["key"] for row in rows], dtype=_KEYS),
            num_frames=np.array([row["num_frames"] for row in rows], dtype=np.int64),
            suffixes=suffixes,
            places=np.array(places, dtype=np.int64).reshape(len(rows), len(suffixes), 3),
        )
        for row in rows:
            require_safe_names(row["key"], (), source)
        require_safe_names("any", suffixes, source)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ShardFault(f"{source} is not a shard's sidecar ({error}); {_MAKE_AGAIN}", Reason.NOT_OURS) from error
    first, size = sidecar.places[..., 0], sidecar.places[..., 1]
    inside = (first >= tarfile.BLOCKSIZE) & (size >= 0) & (first + size <= sidecar.num_bytes)
    stated = (stored.get("num_samples"), len({row["key"] for row in rows}))
    if not (inside | (sidecar.places == -1).all(axis=-1)).all() or stated != (len(rows), len(rows)):
        raise ShardFault(
            f"{source} contradicts itself: members outside the shard, or another number of clips; {_MAKE_AGAIN}",
            Reason.NOT_OURS,
        )
    return sidecar


def read_sidecar(shard: Path) -> Sidecar:
    """Return a local shard's sidecar. Raises: ShardFault, if it is missing, or not one of ours."""
    path = sidecar_path(shard)
    try:
        text = path.read_bytes()
    except OSError as error:
        told = (
            f"{shard} has no sidecar {path.name} beside it"
            if isinstance(error, FileNotFoundError)
            else f"{path} cannot be read: {error}"
        )
        raise ShardFault(f"{told}; {_MAKE_AGAIN}", Reason.NO_SIDECAR) from error
    return parse_sidecar(text, path)


def fitting(location: str, num_bytes: int | None, sidecar: Sidecar, clip: ClipSpec) -> Shard:
    """Return the shard at a location, if it has the size its sidecar says, where that is known, and `clip` can be cut from it.

    Raises: ShardFault, ClipMismatch.
    """
    if num_bytes is not None and num_bytes != sidecar.num_bytes:
        reason = Reason.TRUNCATED if num_bytes < sidecar.num_bytes else Reason.WRONG_SIZE
        told = f"{location} has {num_bytes} bytes, its sidecar says {sidecar.num_bytes}"
        raise ShardFault(f"{told}; delete it and run `prepare` again", reason)
    ClipSpec.from_dict(sidecar.clip, f"the sidecar of {location}").require_same_recording(clip, location, "this run")
    return Shard(ShardFile(location, sidecar.num_bytes, sidecar.sha256), sidecar)


def checked_shard(path: Path, clip: ClipSpec) -> Shard:
    """Return a local shard, if it has the size its sidecar says, and `clip` can be cut from it. Raises: ShardFault, ClipMismatch."""
    sidecar = read_sidecar(path)
    if not path.is_file():
        raise ShardFault(
            f"{path} is missing, its sidecar is there; run `prepare` again, or delete the sidecar too", Reason.MISSING
        )
    try:
        return fitting(str(path), path.stat().st_size, sidecar, clip)
    except ShardFault:
        with path.open("rb") as file:
            require_first_key(file, sidecar.keys, path)
        raise


def is_whole(path: Path) -> bool:
    """Return whether a local shard and its sidecar are there, and the shard has the size and the first clip that the sidecar says."""
    try:
        sidecar = read_sidecar(path)
        with path.open("rb") as file:
            require_first_key(file, sidecar.keys, path)
        return path.stat().st_size == sidecar.num_bytes
    except (OSError, BrokenShard):
        return False


def shard_paths(folder: Path, split: str) -> list[Path]:
    """Return where the shards of one split of a local data set lie, or should by their sidecars, sorted; none without such a split.

    Raises: MissingShards, if the folder is not a prepared data set.
    """
    if not any((folder / each).is_dir() for each in SPLITS):
        raise not_prepared(folder)
    return sorted(
        {path.with_suffix(".tar") for suffix in ("tar", "json") for path in (folder / split).glob(f"*.{suffix}")}
    )


def find_shards(folder: str | Path, split: str, clip: ClipSpec) -> list[Shard]:
    """Return the checked, non-empty shards of one split of a local data set, sorted by name.

    Raises: MissingShards, if the folder is not a prepared data set; ShardFault, if any shard is bad; ClipMismatch.
    """
    shards = [checked_shard(path, clip) for path in shard_paths(Path(folder), split)]
    return [shard for shard in shards if shard.num_samples > 0]


def not_prepared(folder: object) -> MissingShards:
    return MissingShards(
        f"no shards at {folder} (no {' or '.join(SPLITS)} folder there); make them with: "
        f"python -m lipsync_lightning.prepare recipe=folder recipe.source=<folder of videos> out={folder}"
    )


def require_first_key(file: BinaryIO, keys: Sequence[str] | np.ndarray, source: object) -> None:
    """Raises: ShardFault, if a shard begins with another clip than it must: it is another shard's content."""
    try:
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            first = archive.next()
    except (OSError, tarfile.TarError):
        return  # it is no tar, so no other shard either
    found = base_plus_ext(first.name)[0] if first else None
    if found is not None and len(keys) and found != str(keys[0]):
        raise ShardFault(
            f"{source} begins with {found}, its sidecar says {keys[0]}: another shard's content lies there; copy both again",
            Reason.SWAPPED,
        )


def _add_member(archive: tarfile.TarFile, file: BinaryIO, name: str, data: bytes) -> tuple[int, int, int]:
    """Add a member, and return its first byte, number of bytes and crc32."""
    member = tarfile.TarInfo(name)  # its defaults (time 0, no owner) keep the bytes reproducible
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
    padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return file.tell() - padded, len(data), crc32(data)
