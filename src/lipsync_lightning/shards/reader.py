"""Where every clip of a data set lies, so that any of them can be read without the ones before it, and what it must be."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np

from lipsync_lightning.shards.faults import ClipFault, Reason, ShardFault
from lipsync_lightning.shards.format import Shard, ShardFile, require_first_key

MEMBERS = ("mp4", "flac", "json")  # of a clip of which pixels and sound are wanted

OpenShard = Callable[[ShardFile], AbstractContextManager[BinaryIO]]


@contextmanager
def open_local(shard: ShardFile) -> Iterator[BinaryIO]:
    """Open a shard of this machine. Raises: ShardFault, if that cannot be done."""
    try:
        file = shard.path.open("rb")
    except OSError as error:
        reason = Reason.MISSING if isinstance(error, FileNotFoundError) else Reason.UNREACHABLE
        raise ShardFault(f"{shard.location} cannot be opened: {error.strerror}", reason) from error
    with file:
        yield file


@dataclass(frozen=True)
class StoredPart:
    """A member of a clip of which parts are read."""

    opened: OpenShard
    shard: ShardFile
    place: int  # its first byte in the shard
    size: int  # bytes

    def __call__(self, first: int, size: int) -> bytes:
        """Return bytes `first` to `first + size - 1` of the member. Raises: ClipFault, if they cannot be read; ShardFault."""
        with self.opened(self.shard) as file:
            try:
                file.seek(self.place + first)
                content = file.read(size)
            except OSError as error:
                told = f"{self.shard.location}: {size} bytes at {self.place + first} cannot be read: {error.strerror}"
                raise ClipFault(told, Reason.UNREACHABLE) from error
        if len(content) != size or first + size > self.size:
            raise ClipFault(
                f"{self.shard.location}: {size} bytes wanted at {self.place + first}, {len(content)} there",
                Reason.TRUNCATED,
            )
        return content


class ClipIndex:
    """The clips of some shards, in the order in which they are stored. Arrays, because a data set may hold millions.

    All of it is in the shards' sidecars: no shard is opened before a clip of it is read.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        *,
        members: Sequence[str] = MEMBERS,
        parts: Sequence[str] = (),
        opened: OpenShard = open_local,
    ) -> None:
        """Args:
            members: suffixes of what is read of each clip.
            parts: suffixes of what is read in parts, by whoever is given the clip, who also checks them.
            opened: gives the bytes of a shard.
        Raises: ShardFault, if a clip lacks any of the members.
        """
        self.shards: list[ShardFile] = [shard.file for shard in shards]
        self.members = tuple(members)
        self.opened = opened
        no_clips = np.zeros(0, dtype=np.int64)
        self.keys = np.concatenate(
            [np.array([], dtype=np.dtypes.StringDType()), *(shard.sidecar.keys for shard in shards)]
        )
        self.num_frames = np.concatenate([no_clips, *(shard.sidecar.num_frames for shard in shards)])
        self.shard_of = np.repeat(np.arange(len(self.shards)), [shard.num_samples for shard in shards])
        # First byte, number of bytes and crc32 of each member.
        self.places = np.concatenate(
            [no_clips.reshape(0, len(members), 3), *(places_of(shard, members) for shard in shards)]
        )
        self.parts = tuple(parts)
        self.part_places = np.concatenate(
            [no_clips.reshape(0, len(parts), 3), *(places_of(shard, parts) for shard in shards)]
        )

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, clip: int) -> dict[str, Any]:
        """Return the members of a clip as bytes, by their suffix, with `__key__` and `__url__` as webdataset has them.

        What is read in parts is a `StoredPart` instead of bytes.
        Raises: ClipFault, if any of them is not what the sidecar says; ShardFault, if that is so of the whole shard.
        """
        shard = self.shards[self.shard_of[clip]]
        places = zip(self.members, self.places[clip].tolist(), strict=True)
        with self.opened(shard) as file:
            members = {suffix: self._member(file, clip, suffix, *place) for suffix, place in places}
        parts = {
            suffix: StoredPart(self.opened, shard, first, size)
            for suffix, (first, size, _) in zip(self.parts, self.part_places[clip].tolist(), strict=True)
        }
        return {"__key__": str(self.keys[clip]), "__url__": shard.location, **members, **parts}

    def _member(self, file: BinaryIO, clip: int, suffix: str, first: int, size: int, crc: int) -> bytes:
        number = int(self.shard_of[clip])
        where = f"{self.keys[clip]} in {self.shards[number].location}"
        try:
            file.seek(first)
            content = file.read(size)
        except OSError as error:
            raise ClipFault(f"{where}: the {suffix} cannot be read: {error.strerror}", Reason.UNREACHABLE) from error
        if len(content) != size:
            raise ClipFault(
                f"{where}: {size} bytes of {suffix} wanted at {first}, {len(content)} there", Reason.TRUNCATED
            )
        if crc32(content) != crc:
            require_first_key(
                file, self.keys[np.searchsorted(self.shard_of, number) :][:1], self.shards[number].location
            )
            raise ClipFault(
                f"{where}: the {suffix} has another crc32 than the sidecar says; copy the shard again, or delete it and `prepare` again",
                Reason.CORRUPT,
            )
        return content


def places_of(shard: Shard, members: Sequence[str]) -> np.ndarray:
    """Return (clips, members, 3): first byte, number of bytes and crc32. Raises: ShardFault, if a clip lacks one of the members."""
    suffixes = shard.sidecar.suffixes
    for member in members:
        lacking = (
            np.flatnonzero(shard.sidecar.places[:, suffixes.index(member), 0] < 0)
            if member in suffixes
            else range(shard.num_samples)
        )
        if len(lacking):
            has = sorted(
                suffix
                for suffix, place in zip(suffixes, shard.sidecar.places[lacking[0]], strict=True)
                if place[0] >= 0
            )
            where = f"{shard.sidecar.keys[lacking[0]]} in {shard.file.location}"
            raise ShardFault(f"{where}: no {member!r} member (has {has}); run `prepare` again", Reason.INCOMPLETE)
    if not shard.num_samples:
        return np.zeros((0, len(members), 3), dtype=np.int64)
    return shard.sidecar.places[:, [suffixes.index(member) for member in members]]
