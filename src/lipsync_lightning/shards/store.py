"""Where the shards of a data set are: in a folder, or behind a URL. Which of them are good is found out here."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.shards.faults import Reason, ShardFault
from lipsync_lightning.shards.format import Shard, ShardFile, checked_shard, shard_paths
from lipsync_lightning.shards.reader import open_local, places_of


class ShardStore(Protocol):
    """The shards of a data set."""

    def shards(self, split: str, clip: ClipSpec) -> Iterator[tuple[str, Shard | ShardFault]]:
        """Yield the shards of a split, by their names within the data set, sorted, or what is wrong with them.

        Raises: MissingShards, if there is no data set; ClipMismatch.
        """
        ...

    def opened(self, shard: ShardFile) -> AbstractContextManager[BinaryIO]:
        """Return the bytes of a shard for a while. Raises: ShardFault."""
        ...


class LocalStore:
    """Shards in a folder, read where they lie."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def shards(self, split: str, clip: ClipSpec) -> Iterator[tuple[str, Shard | ShardFault]]:
        for path in shard_paths(self.folder, split):
            try:
                yield f"{split}/{path.name}", checked_shard(path, clip)
            except ShardFault as fault:
                yield f"{split}/{path.name}", fault

    def opened(self, shard: ShardFile) -> AbstractContextManager[BinaryIO]:
        return open_local(shard)


@dataclass
class Survey:
    """The shards of a split by name, without empty ones, and what is wrong with the others."""

    good: dict[str, Shard] = field(default_factory=dict)
    bad: dict[str, ShardFault] = field(default_factory=dict)

    @property
    def contents(self) -> dict[str, str]:
        """The sha256 of each good shard."""
        return {name: shard.file.sha256 for name, shard in self.good.items()}

    @property
    def digest(self) -> str:
        """A sha256 that is the same for surveys with the same contents and the same shards bad for the same reasons."""
        told = [sorted(self.contents.items()), sorted((name, fault.reason) for name, fault in self.bad.items())]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


Found = tuple[
    dict[str, str], dict[str, ShardFault]
]  # what a process tells the others of its survey: `contents` and `bad`


def common_faults(everyones: Sequence[Found]) -> dict[str, ShardFault]:
    """Return what is wrong with the shards of a split for any process: what one cannot read, lacks or has another content of.

    All that is left is then the same for all of them, so they can share one order. The names are the same for all who ask.
    """
    faults: dict[str, ShardFault] = {}
    for _, bad in everyones:
        faults |= {name: fault for name, fault in bad.items() if name not in faults}
    all_contents = [contents for contents, _ in everyones]
    for name in sorted(set().union(*all_contents) - faults.keys()):
        found = [contents.get(name) for contents in all_contents]
        if len(set(found)) > 1:
            told = (
                f"{found.count(None)} of {len(found)} processes do not have it"
                if None in found
                else "processes have different contents"
            )
            faults[name] = ShardFault(f"{name}: {told}; copy the same shards to all nodes", Reason.MISSING)
    return faults


def survey(store: ShardStore, split: str, clip: ClipSpec, members: Sequence[str]) -> Survey:
    """Return which shards of a split hold clips with all of `members`, as far as sidecars and sizes tell.

    Raises: MissingShards, ClipMismatch.
    """
    found = Survey()
    name_of: dict[str, str] = {}  # by sha256
    for name, shard in store.shards(split, clip):
        try:
            if isinstance(shard, ShardFault):
                raise shard
            places_of(shard, members)
            if shard.num_samples > 0:
                first = name_of.setdefault(shard.file.sha256, name)
                if first != name:
                    raise ShardFault(
                        f"{shard.file.location} has the same content as {first}; delete one of them", Reason.TWICE
                    )
                found.good[name] = shard
        except ShardFault as fault:
            found.bad[name] = fault
    return found
