"""The shard format: a tar of self-contained clips, and beside it a json that says what the tar must hold.

Members of a sample: `{id}.mp4` (aligned face, H.264, closed GOP of 12), `{id}.flac` (mono), `{id}.json` (where it comes from).
A tar cut at a member boundary ends silently, so a shard without a matching sidecar is never read.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BrokenShard, MissingShards
from lipsync_lightning.paths import write_atomically

SPLITS = ("train", "heldout")


@dataclass(frozen=True)
class FinishedClip:
    """One aligned clip, ready to be written."""

    id: str
    mp4: bytes
    flac: bytes
    facts: dict[str, Any]


@dataclass(frozen=True)
class Sidecar:
    """What a shard must hold, and what became of each of its sources."""

    num_samples: int
    num_bytes: int
    sha256: str
    clip: dict[str, int]
    plan: str  # hash of the sources and settings the shard was made from
    ledger: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Shard:
    """A shard that has been checked against its sidecar."""

    path: Path
    num_samples: int


def sidecar_path(shard: Path) -> Path:
    return shard.with_suffix(".json")


def write_shard(path: Path, clips: Iterable[FinishedClip], *, clip: ClipSpec, plan: str, ledger: list[dict[str, Any]]) -> Sidecar:
    """Write a shard and its sidecar, whole or not at all, and return the sidecar. The same clips give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    num_samples = 0
    with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as archive:
        for finished in clips:
            _add_member(archive, f"{finished.id}.mp4", finished.mp4)
            _add_member(archive, f"{finished.id}.flac", finished.flac)
            _add_member(archive, f"{finished.id}.json", json.dumps(finished.facts, sort_keys=True).encode())
            num_samples += 1
    sidecar = Sidecar(num_samples, part.stat().st_size, _sha256(part), clip.as_dict(), plan, ledger)
    part.replace(path)
    write_atomically(sidecar_path(path), json.dumps(asdict(sidecar), indent=1).encode())
    return sidecar


def read_sidecar(shard: Path) -> Sidecar:
    """Raises: BrokenShard, if the sidecar is missing or not one of ours."""
    path = sidecar_path(shard)
    if not path.is_file():
        raise BrokenShard(f"{shard} has no sidecar {path.name} beside it; run `prepare` again to remake the shard")
    try:
        return Sidecar(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise BrokenShard(f"{path} is not a shard's sidecar ({error}); run `prepare` again to remake the shard") from error


def checked_shard(path: Path, clip: ClipSpec) -> Shard:
    """Return the shard, if it has the size its sidecar says, and `clip` can be cut from it.

    Raises: BrokenShard, ClipMismatch.
    """
    sidecar = read_sidecar(path)
    if path.stat().st_size != sidecar.num_bytes:
        raise BrokenShard(
            f"{path} has {path.stat().st_size} bytes, its sidecar says {sidecar.num_bytes}; delete it and run `prepare` again"
        )
    ClipSpec.from_dict(sidecar.clip, sidecar_path(path)).require_same_recording(clip, path, "this run")
    return Shard(path, sidecar.num_samples)


def find_shards(folder: str | Path, split: str, clip: ClipSpec) -> list[Shard]:
    """Return the checked, non-empty shards of one split of a prepared data set, sorted by name; none where it has no such split.

    Raises: MissingShards, if the folder is not a prepared data set; BrokenShard, ClipMismatch.
    """
    if not any((Path(folder) / each).is_dir() for each in SPLITS):
        raise MissingShards(
            f"no shards at {folder} (no {' or '.join(SPLITS)} folder there); make them with: "
            f"python -m lipsync_lightning.prepare recipe=folder recipe.source=<folder of videos> out={folder}"
        )
    shards = [checked_shard(path, clip) for path in sorted((Path(folder) / split).glob("*.tar"))]
    return [shard for shard in shards if shard.num_samples > 0]


def _add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # its defaults (time 0, no owner) keep the bytes reproducible
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
