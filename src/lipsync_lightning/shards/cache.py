"""A folder of fetched shards, shared by all processes of a machine, that never grows beyond its bound.

The caches of fsspec itself have no bound and do not let processes share a download, nor do they know what a file must be.

A shard's file is named by its sha256 and size, so that what lies there under its name is the right content, wherever it was fetched from.
Who reads it holds a shared lock on the file itself, and who fetches it one beside it; the system lets go of both when a process dies.
"""

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import BinaryIO

from filelock import FileLock, Timeout

from lipsync_lightning.errors import NoSpace
from lipsync_lightning.shards.format import ShardFile

_WHOLE, _PART, _LOCK = ".tar", ".part", ".lock"
_OURS = re.compile(r"[0-9a-f]{64}-[0-9]+\.(tar|part)")  # anything else in the folder is somebody else's
_PATIENCE_S = 300.0  # for others to have read or fetched, until there is room
_PAUSE_S = 0.1


class ShardCache:
    """Whole shards, least recently read ones going first. Other files in the folder are neither counted nor touched."""

    def __init__(self, *, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes

    @contextmanager
    def opened(self, shard: ShardFile, fetch: Callable[[Path], None]) -> Iterator[BinaryIO]:
        """Open a shard for reading; until it is closed, it stays.

        Args: fetch: writes the shard to a path, checked, or raises; called where the shard is not there.
        Raises: NoSpace, if there is no room for it; whatever `fetch` raises.
        """
        whole = self.folder / f"{shard.sha256}-{shard.num_bytes}{_WHOLE}"
        file = _reading(whole, shard.num_bytes) or self._fetched(whole, shard, fetch)
        with file:  # closing it lets go of the lock
            yield file

    def _fetched(self, whole: Path, shard: ShardFile, fetch: Callable[[Path], None]) -> BinaryIO:
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(whole.with_suffix(_LOCK)):
            file = _reading(whole, shard.num_bytes)  # another process may have fetched it meanwhile
            if file is not None:
                return file
            part = whole.with_suffix(_PART)
            self._reserve(part, shard)
            try:
                fetch(part)
                with part.open("rb") as written:
                    os.fsync(
                        written.fileno()
                    )  # or a power cut could leave an empty file under a name that vouches for it
                file = part.open("rb")
                fcntl.flock(file, fcntl.LOCK_SH)  # before it has its name, so that nobody removes it before it is read
                part.replace(whole)
                return file
            finally:
                part.unlink(missing_ok=True)

    def _reserve(self, part: Path, shard: ShardFile) -> None:
        """Make room for a shard, and keep it by an empty file, whose name tells its size. Raises: NoSpace."""
        if shard.num_bytes > self.max_bytes:
            raise NoSpace(
                f"{shard.location} has {shard.num_bytes / 1e9:.3g} GB, more than data.remote.cache_gb={self.max_bytes / 1e9:.3g}"
            )
        patient_until = monotonic() + _PATIENCE_S
        while monotonic() < patient_until:
            with FileLock(self.folder / "room.lock"):
                if self._make_room(shard.num_bytes, part):
                    part.touch()
                    return
            sleep(_PAUSE_S)
        raise NoSpace(
            f"{self.folder} has no room for {shard.location}: all shards in it have been in use for {_PATIENCE_S:.0f} s; "
            f"raise data.remote.cache_gb (now {self.max_bytes / 1e9:.3g}), or use fewer workers"
        )

    def _make_room(self, wanted: int, part: Path) -> bool:
        """Remove what was not read for longest, until there is room, and return whether there is."""
        others = [path for path in self.folder.iterdir() if _OURS.fullmatch(path.name) and path != part]
        held = sum(map(_stated_bytes, others))
        for path in sorted(others, key=_last_read):
            if held + wanted <= self.max_bytes:
                break
            if _removed(path):
                held -= _stated_bytes(path)
        return held + wanted <= self.max_bytes


def _reading(whole: Path, num_bytes: int) -> BinaryIO | None:
    """Return the file, open and locked against removal, or None if it is not there, or not whole."""
    try:
        file = whole.open("rb")
    except FileNotFoundError:
        return None
    fcntl.flock(file, fcntl.LOCK_SH)
    if os.fstat(file.fileno()).st_size != num_bytes:
        file.close()
        return None
    os.utime(file.fileno())  # it is the last to go now
    return file


def _removed(path: Path) -> bool:
    """Remove a shard that nobody reads, or the remains of one that nobody is fetching any more; return whether it is gone."""
    try:
        if path.suffix == _PART:
            with FileLock(path.with_suffix(_LOCK), blocking=False):
                path.unlink(missing_ok=True)
        else:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
    except (Timeout, BlockingIOError):
        return False
    except FileNotFoundError:
        return True
    return True


def _stated_bytes(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def _last_read(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
