"""Which sources make up which shard, fixed before work begins and only ever added to."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from lipsync_lightning.errors import BrokenShard, WouldOverwrite
from lipsync_lightning.files import write_atomically

PLAN = "plan.json"


@dataclass(frozen=True, kw_only=True)
class PlannedSource:
    """One source, and the file it had when it was planned."""

    name: str
    sha256: str | None  # None: it could not be read
    num_bytes: int | None
    start_s: float  # which stretch of the file, as `sources.Source` has it
    stop_s: float | None


@dataclass(frozen=True, kw_only=True)
class PlannedShard:
    """One shard."""

    name: str  # `<split>/<number>`
    sources: tuple[PlannedSource, ...]

    @property
    def split(self) -> str:
        return self.name.split("/")[0]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All shards of a folder, and the rule by which they are made. Sources found later go to new shards at the end."""

    rule: Mapping[str, Any]  # `Recipe.rule`
    shards: Sequence[PlannedShard] = ()

    @classmethod
    def load(cls, out: Path, rule: Mapping[str, Any]) -> Self:
        """Return the plan of a folder, an empty one if it has none.

        Raises: WouldOverwrite, if the folder was planned by another rule; BrokenShard, if its plan cannot be read.
        """
        path = out / PLAN
        rule = json.loads(json.dumps(rule))
        if not path.is_file():
            foreign = next(out.glob("*/*.tar"), None)
            if foreign is not None:
                raise WouldOverwrite(f"{out} holds shards without a plan, such as {foreign}; choose another out=")
            return cls(rule=rule)
        try:
            stored = json.loads(path.read_text())
            shards = [
                PlannedShard(name=shard["name"], sources=tuple(PlannedSource(**source) for source in shard["sources"]))
                for shard in stored["shards"]
            ]
            planned_by = dict(stored["rule"])
        except (ValueError, KeyError, TypeError) as error:
            raise BrokenShard(
                f"{path} is no plan of this version ({error!r}); choose another out=, or delete {out}"
            ) from error
        differing = sorted(key for key in {*rule, *planned_by} if rule.get(key) != planned_by.get(key))
        if differing:
            told = "; ".join(f"{key}: {planned_by.get(key)} there, {rule.get(key)} asked for" for key in differing)
            raise WouldOverwrite(f"{out} was prepared by another recipe ({told}); choose another out=, or delete {out}")
        return cls(rule=rule, shards=shards)

    def save(self, out: Path) -> None:
        content = {"rule": dict(self.rule), "shards": [asdict(shard) for shard in self.shards]}
        write_atomically(out / PLAN, json.dumps(content).encode())

    @property
    def split_of(self) -> dict[str, str]:
        """By source, the split it is planned for."""
        return {source.name: shard.split for shard in self.shards for source in shard.sources}

    @property
    def duplicate_of(self) -> dict[str, str]:
        """Names of sources that show the same stretch of the same bytes as one planned earlier: that one's name."""
        first: dict[tuple[Any, ...], str] = {}
        found: dict[str, str] = {}
        for source in (source for shard in self.shards for source in shard.sources):
            if source.sha256 is not None:
                original = first.setdefault((source.sha256, source.start_s, source.stop_s), source.name)
                if original != source.name:
                    found[source.name] = original
        return found

    def extended(self, new: Iterable[PlannedSource], heldout: Mapping[str, bool], sources_per_shard: int) -> Self:
        """Return the plan with further shards. Args: heldout: by name, whether a new source is held out."""
        shards = list(self.shards)
        new = sorted(new, key=lambda source: source.name)
        for split, is_heldout in (("train", False), ("heldout", True)):
            members = [source for source in new if heldout[source.name] == is_heldout]
            number = sum(shard.split == split for shard in shards)
            for first in range(0, len(members), sources_per_shard):
                part = tuple(members[first : first + sources_per_shard])
                shards.append(PlannedShard(name=f"{split}/{number:06d}", sources=part))
                number += 1
        return type(self)(rule=self.rule, shards=shards)
