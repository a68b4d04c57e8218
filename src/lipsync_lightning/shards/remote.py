"""Shards behind a URL of fsspec: sidecars are read when work begins, shards are fetched whole when a clip of them is first read."""

import errno
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import sleep
from typing import Any, BinaryIO, TypeVar

from fsspec.core import url_to_fs

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import LipSyncError, MissingShards, NoSpace
from lipsync_lightning.files import sha256_of
from lipsync_lightning.shards.cache import ShardCache
from lipsync_lightning.shards.faults import Reason, ShardFault
from lipsync_lightning.shards.format import SPLITS, Shard, ShardFile, fitting, not_prepared, parse_sidecar

_SIDECARS_AT_ONCE = 16
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_GB = 1e9
_UNMENDABLE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_JITTER = random.SystemRandom()  # not the seeded one: how often the network fails must not change what is drawn

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RemoteAccess:
    """How shards behind a URL are read."""

    retries: int  # of each request, after waiting 0.5 s, 1 s, 2 s, … up to 30 s
    cache_dir: str  # folder of this machine, for all processes and runs together
    cache_gb: float  # 10^9 bytes; the shards in it that were not read for longest make room for others


def is_url(shards: str) -> bool:
    return "://" in shards


def with_retries(call: Callable[[], T], *, retries: int, what: str) -> T:
    """Return what a request returns, repeating it while it fails. Raises: ShardFault, if it keeps failing; OSError, if it always would."""
    attempt = 0
    while True:
        try:
            return call()
        except _UNMENDABLE:
            raise
        except (
            Exception
        ) as error:  # each filesystem raises exceptions of its own, from libraries that may not be installed
            if isinstance(error, LipSyncError) and not isinstance(error, ShardFault):
                raise
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise NoSpace(
                    f"{what}: no space left for it; make room, or choose another data.remote.cache_dir"
                ) from error
            if attempt == retries:
                told = str(error) if isinstance(error, ShardFault) else f"{type(error).__name__}: {error}"
                reason = error.reason if isinstance(error, ShardFault) else Reason.UNREACHABLE
                raise ShardFault(f"{what}: failed {retries + 1} times, at last with {told}", reason) from error
            sleep(min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**attempt) * _JITTER.uniform(0.5, 1.0))
            attempt += 1


class RemoteStore:
    """Shards behind a URL. Holds no connection, so that it can be sent to any process."""

    def __init__(self, url: str, access: RemoteAccess) -> None:
        self.url = url.rstrip("/")
        self.retries = access.retries
        self.cache = ShardCache(folder=Path(access.cache_dir).expanduser(), max_bytes=int(access.cache_gb * _GB))

    def shards(self, split: str, clip: ClipSpec) -> Iterator[tuple[str, Shard | ShardFault]]:
        sizes = self._sizes(split)
        names = sorted({name.rpartition(".")[0] for name in sizes if name.endswith((".tar", ".json"))})
        with ThreadPoolExecutor(_SIDECARS_AT_ONCE) as pool:
            found = pool.map(lambda name: self._shard(f"{self.url}/{split}", name, sizes, clip), names)
            yield from zip((f"{split}/{name}.tar" for name in names), found, strict=True)

    def opened(self, shard: ShardFile) -> AbstractContextManager[BinaryIO]:
        return self.cache.opened(shard, partial(self._fetch, shard))

    def _sizes(self, split: str) -> dict[str, int | None]:
        """Return the bytes of each file of a split, None where the filesystem does not know."""
        for each in (split, *SPLITS):
            try:
                filesystem, path = _filesystem(f"{self.url}/{each}")
                listing = with_retries(
                    partial(_listed, filesystem, path), retries=self.retries, what=f"listing {self.url}/{each}"
                )
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (ShardFault, PermissionError) as error:
                raise MissingShards(f"data.shards={self.url} cannot be listed: {error}") from error
            return (
                {entry["name"].rpartition("/")[2]: entry["size"] for entry in listing if entry["type"] == "file"}
                if each == split
                else {}
            )
        raise not_prepared(self.url)

    def _shard(self, folder: str, name: str, sizes: dict[str, int | None], clip: ClipSpec) -> Shard | ShardFault:
        sidecar, tar = f"{folder}/{name}.json", f"{folder}/{name}.tar"
        try:
            if f"{name}.json" not in sizes:
                raise ShardFault(f"{tar} has no sidecar {name}.json beside it; copy it there too", Reason.NO_SIDECAR)
            if f"{name}.tar" not in sizes:
                raise ShardFault(f"{tar} is missing, its sidecar is there; copy the shard there too", Reason.MISSING)
            text = with_retries(lambda: _content(sidecar), retries=self.retries, what=sidecar)
            return fitting(tar, sizes[f"{name}.tar"], parse_sidecar(text, sidecar), clip)
        except ShardFault as fault:
            return fault
        except OSError as error:
            return ShardFault(f"{sidecar} cannot be read: {error}", Reason.UNREACHABLE)

    def _fetch(self, shard: ShardFile, part: Path) -> None:
        try:
            with_retries(partial(_download, shard, part), retries=self.retries, what=f"fetching {shard.location}")
        except FileNotFoundError as error:
            raise ShardFault(f"{shard.location} is missing, its sidecar is there", Reason.MISSING) from error
        except OSError as error:
            raise ShardFault(f"{shard.location} cannot be fetched: {error}", Reason.UNREACHABLE) from error


def _filesystem(url: str) -> tuple[Any, str]:
    """Return the filesystem of a URL in this process, and the path in it. Connections do not survive a fork: never keep it."""
    try:
        return url_to_fs(url)
    except (ImportError, ValueError) as error:  # a filesystem whose package is not installed, or none
        raise MissingShards(f"data.shards: {url} cannot be opened: {error}") from error


def _listed(filesystem: Any, path: str) -> list[dict[str, Any]]:
    filesystem.invalidate_cache()
    return filesystem.ls(path, detail=True)


def _content(url: str) -> bytes:
    filesystem, path = _filesystem(url)
    return filesystem.cat_file(path)


def _download(shard: ShardFile, part: Path) -> None:
    """Fetch a shard. Raises: ShardFault, if it is not what its sidecar says; whatever the filesystem raises."""
    filesystem, path = _filesystem(shard.location)
    filesystem.get_file(path, str(part))
    size = part.stat().st_size
    if size != shard.num_bytes:
        reason = Reason.TRUNCATED if size < shard.num_bytes else Reason.WRONG_SIZE
        raise ShardFault(f"{size} bytes, where its sidecar says {shard.num_bytes}", reason)
    if sha256_of(part) != shard.sha256:
        raise ShardFault("another sha256 than its sidecar says", Reason.CORRUPT)
