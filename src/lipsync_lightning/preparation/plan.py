"""Which sources make up which shard, fixed before work begins and only ever added to."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from lipsync_lightning.errors import BrokenShard, WouldOverwrite
from lipsync_lightning.files import write_atomically
from lipsync_lightning.preparation.sources import Source

PLAN = "plan.json"
_HEAD_BYTES = 65536  # enough to tell most files of one size apart


@dataclass(frozen=True, kw_only=True)
class PlannedShard:
    """One shard that is to be made."""

    name: str  # `<split>/<number>`
    sources: tuple[str, ...]

    @property
    def split(self) -> str:
        return self.name.split("/")[0]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All shards of a data set, and which data set it is. Sources found later, and such as are tried again, go to new shards at the end."""

    identity: Mapping[str, Any]  # name and clip: what all shards of one folder must share
    shards: Sequence[PlannedShard] = ()
    duplicates: Mapping[str, str] = field(default_factory=dict)  # source: the earlier one that has the same bytes

    @classmethod
    def load(cls, out: Path, identity: Mapping[str, Any]) -> Self:
        """Return the plan of a folder, an empty one if it has none.

        Raises: WouldOverwrite, if the folder belongs to another data set; BrokenShard, if its plan cannot be read.
        """
        path = out / PLAN
        if not path.is_file():
            foreign = next(out.glob("*/*.tar"), None)
            if foreign is not None:
                raise WouldOverwrite(
                    f"{out} holds shards that were not planned by this version, such as {foreign}; choose another out="
                )
            return cls(identity=identity)
        try:
            stored = json.loads(path.read_text())
            shards = [PlannedShard(name=shard["name"], sources=tuple(shard["sources"])) for shard in stored["shards"]]
            plan = cls(identity=stored["identity"], shards=shards, duplicates=stored["duplicates"])
        except (ValueError, KeyError, TypeError) as error:
            raise BrokenShard(f"{path} is no plan ({error!r}); choose another out=, or delete {out}") from error
        differing = sorted(key for key in {*identity, *plan.identity} if identity.get(key) != plan.identity.get(key))
        if differing:
            here = ", ".join(
                f"{key} {plan.identity.get(key)} there, {identity.get(key)} asked for" for key in differing
            )
            raise WouldOverwrite(f"{out} holds another data set ({here}); choose another out=")
        return plan

    def save(self, out: Path) -> None:
        content = {**asdict(self), "identity": dict(self.identity), "duplicates": dict(self.duplicates)}
        write_atomically(out / PLAN, json.dumps(content).encode())

    @property
    def split_of(self) -> dict[str, str]:
        """By source, for which split it was planned."""
        return {source: shard.split for shard in self.shards for source in shard.sources}

    def extended(
        self, names: Iterable[str], heldout: set[str], duplicates: Mapping[str, str], sources_per_shard: int
    ) -> Self:
        """Return the plan with further shards of these sources.

        Args: duplicates: those of all sources, as they are now.
        """
        names = sorted(names)
        further = []
        for split, members in (
            ("train", [n for n in names if n not in heldout]),
            ("heldout", [n for n in names if n in heldout]),
        ):
            first = sum(shard.split == split for shard in self.shards)
            parts = [
                tuple(members[start : start + sources_per_shard]) for start in range(0, len(members), sources_per_shard)
            ]
            further += [
                PlannedShard(name=f"{split}/{number:06d}", sources=part)
                for number, part in enumerate(parts, start=first)
            ]
        return type(self)(identity=self.identity, shards=[*self.shards, *further], duplicates=dict(duplicates))


def duplicates_among(settled: Sequence[Source], unclear: Sequence[Source]) -> dict[str, str]:
    """Return which of the unclear sources have the same bytes as an earlier one, or as a settled one, and show the same stretch of it.

    By name, the other one's name. Files are read only as far as it takes to tell them apart.
    """
    names = {source.name for source in unclear}
    groups: dict[Any, list[Source]] = {(): [*settled, *unclear]}
    for key_of in (_stretch_and_size, _head, digest_of):
        finer: dict[Any, list[Source]] = defaultdict(list)
        for coarse, members in groups.items():
            for source in members:
                key = key_of(source)
                if key is not None:
                    finer[coarse, key].append(source)
        groups = {
            key: members
            for key, members in finer.items()
            if len(members) > 1 and any(one.name in names for one in members)
        }
    return {other.name: members[0].name for members in groups.values() for other in members[1:] if other.name in names}


def stretch_of(source: Source) -> tuple[Any, ...]:
    """Return which part of its file a source is."""
    return (source.start_s, source.stop_s, source.crop)


def _stretch_and_size(source: Source) -> tuple[Any, ...] | None:
    try:
        return (*stretch_of(source), source.video.stat().st_size) if source.video.is_file() else None
    except OSError:
        return None


def _head(source: Source) -> bytes | None:
    try:
        with source.video.open("rb") as file:
            return hashlib.sha256(file.read(_HEAD_BYTES)).digest()
    except OSError:
        return None


def digest_of(source: Source) -> bytes | None:
    """Return the sha256 of a source's file, or None if it cannot be read."""
    try:
        with source.video.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None
