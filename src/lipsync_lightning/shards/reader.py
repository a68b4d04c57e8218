"""Reading any clip of any shard, in a folder or behind a URL of fsspec, without the clips before it.

webdataset streams shards and cannot resume at an exact clip, so clips are read by seeking to where the sidecar says.
"""

import errno
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from filelock import FileLock
from fsspec.core import open_local, url_to_fs

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BrokenShard, LipSyncError, MissingShards, NoSpace
from lipsync_lightning.files import sha256_of
from lipsync_lightning.shards.format import SPLITS, Sidecar, not_prepared, parse_sidecar

MEMBERS = ("mp4", "flac", "json")  # of a clip of which pixels and sound are wanted
_SIDECARS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class RemoteAccess:
    """How shards behind a URL are read."""

    cache_dir: str = "~/.cache/lipsync_lightning/shards"  # grows without bound; delete it while nothing runs


@dataclass(frozen=True)
class StoredPart:
    """A member of a clip, of which any part can be read."""

    path: Path  # of the shard, on this machine
    where: str  # for messages
    place: int  # its first byte in the shard
    size: int  # bytes

    def __call__(self, first: int, size: int) -> bytes:
        """Return bytes `first` to `first + size - 1` of the member. Raises: BrokenShard."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.place + first)
                content = file.read(size)
        except OSError as error:
            reason = "missing" if isinstance(error, FileNotFoundError) else "unreachable"
            raise BrokenShard(f"{self.where} cannot be read: {error.strerror}", reason) from error
        if len(content) != size:
            raise BrokenShard(f"{self.where}: {size} bytes wanted, {len(content)} there", "truncated")
        return content


class ClipIndex:
    """The clips of some shards, in the order in which they are stored."""

    def __init__(
        self,
        shards: Sequence[Sidecar],
        *,
        members: Sequence[str] = MEMBERS,
        parts: Sequence[str] = (),
        remote: RemoteAccess | None = None,
    ) -> None:
        """Args:
            members: suffixes of what is read of each clip.
            parts: suffixes of what is read in parts, by whoever is given the clip, who also checks them.
        Raises: BrokenShard, if a clip lacks any of the members.
        """
        for shard in shards:
            shard.require_members([*members, *parts])
        self.shards = list(shards)
        self.members = tuple(members)
        self.parts = tuple(parts)
        self.remote = remote or RemoteAccess()
        sizes = [shard.num_samples for shard in shards]
        self.keys = np.concatenate([np.array([], np.dtypes.StringDType()), *(shard.keys for shard in shards)])
        self.num_frames = np.concatenate([np.array([], np.int64), *(shard.num_frames for shard in shards)])
        self.shard_of = np.repeat(np.arange(len(shards)), sizes)
        self._first_clip = np.cumsum([0, *sizes])
        self._paths: dict[int, Path] = {}  # by shard, of those that this process has fetched

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, clip: int) -> dict[str, Any]:
        """Return a clip's `members` as bytes and `parts` as `StoredPart`, by suffix, with webdataset's keys and urls.

        A shard behind a URL is fetched first. Raises: BrokenShard, if a member is not what the sidecar says.
        """
        number = int(self.shard_of[clip])
        shard = self.shards[number]
        if number not in self._paths:
            self._paths[number] = fetched(shard, self.remote) if "://" in shard.location else shard.path
        sample: dict[str, Any] = {"__key__": str(self.keys[clip]), "__url__": shard.location}
        for suffix in (*self.members, *self.parts):
            first, size, crc = shard.place(clip - int(self._first_clip[number]), suffix)
            where = f"{sample['__key__']} in {shard.location}: {suffix}"
            part = StoredPart(self._paths[number], where, first, size)
            sample[suffix] = part if suffix in self.parts else part(0, size)
            if suffix in self.members and crc32(sample[suffix]) != crc:
                told = "has another crc32 than the sidecar says; copy the shard again, or make it again"
                raise BrokenShard(f"{where} {told}")
        return sample


def place_of(folder: str) -> str:
    """Return a data set's path or URL as the locations of its shards begin."""
    return str(Path(folder).expanduser()) if folder.startswith("~") else folder.rstrip("/")


def survey(
    folder: str, split: str, clip: ClipSpec, members: Sequence[str]
) -> tuple[dict[str, Sidecar], dict[str, BrokenShard]]:
    """Return the good, non-empty shards of a split by name, and what is wrong with the others.

    Only listings and sidecars are read, in a folder or behind a URL. Good ones hold clips with all of `members`.
    Raises: MissingShards, if there is no data set; ClipMismatch.
    """
    folder = place_of(folder)
    try:
        filesystem, root = url_to_fs(folder)
        filesystem.invalidate_cache()
        there = {entry["name"].rstrip("/").rpartition("/")[2] for entry in filesystem.ls(root, detail=True)}
        listing = filesystem.ls(f"{root}/{split}", detail=True) if split in there else []
    except FileNotFoundError as error:
        raise not_prepared(folder) from error
    except Exception as error:  # each filesystem raises its own, from libraries that may not be installed
        raise MissingShards(f"data.shards={folder} cannot be listed: {type(error).__name__}: {error}") from error
    if not there & set(SPLITS):
        raise not_prepared(folder)
    sizes = {entry["name"].rpartition("/")[2]: entry["size"] for entry in listing}

    def checked(stem: str) -> Sidecar | BrokenShard:
        location = f"{folder}/{split}/{stem}.tar"
        try:
            if f"{stem}.json" not in sizes:
                raise BrokenShard(f"{location} has no sidecar {stem}.json beside it; copy it too", "without sidecar")
            sidecar = parse_sidecar(filesystem.cat_file(f"{root}/{split}/{stem}.json"), location)
            sidecar.require_fits(sizes.get(f"{stem}.tar"), clip)
            sidecar.require_members(members)
            return sidecar
        except BrokenShard as error:
            return error
        except LipSyncError:
            raise
        except Exception as error:  # as above
            told = f"the sidecar of {location} cannot be read: {type(error).__name__}: {error}"
            return BrokenShard(told, "unreachable")

    good, bad, name_of = {}, {}, {}
    stems = sorted({name.rpartition(".")[0] for name in sizes if name.endswith((".tar", ".json"))})
    with ThreadPoolExecutor(_SIDECARS_AT_ONCE) as pool:
        for stem, shard in zip(stems, pool.map(checked, stems), strict=True):
            name = f"{split}/{stem}.tar"
            if isinstance(shard, Sidecar) and name_of.setdefault(shard.sha256, name) != name:
                told = f"{name} has the same content as {name_of[shard.sha256]}; delete one"
                shard = BrokenShard(told, "there twice")
            if isinstance(shard, BrokenShard):
                bad[name] = shard
            elif shard.num_samples:
                good[name] = shard
    return good, bad


def fetched(shard: Sidecar, remote: RemoteAccess) -> Path:
    """Return the copy of a shard in fsspec's file cache on this machine, having fetched it if it was not whole there.

    Raises: BrokenShard, if it is fetched in vain twice; NoSpace.
    """
    # Named by its content, so that a shard that changed is another file.
    storage = Path(remote.cache_dir).expanduser() / shard.sha256
    whole = storage.with_suffix(".whole")
    storage.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(storage.with_suffix(".lock")):  # fsspec's cache knows neither other processes nor checksums
        for is_last_try in (False, True):
            try:
                url, options = f"simplecache::{shard.location}", {"cache_storage": str(storage)}
                path = Path(str(open_local(url, simplecache=options)))
                if not whole.exists() and (path.stat().st_size, sha256_of(path)) != (shard.num_bytes, shard.sha256):
                    raise OSError(f"{path.stat().st_size} bytes that are not what its sidecar says")
                whole.touch()
                return path
            except Exception as error:  # each filesystem raises its own
                shutil.rmtree(storage, ignore_errors=True)
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    raise NoSpace(f"{storage.parent} is full; make room, or set data.remote.cache_dir") from error
                if is_last_try:
                    told = f"{shard.location} was fetched twice in vain: {type(error).__name__}: {error}"
                    raise BrokenShard(told, "not fetched") from error
    raise AssertionError("the last try returns or raises")
