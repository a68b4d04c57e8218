"""Which sources make up which shard: planned before work begins, and only ever added to."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from lipsync_lightning.errors import BrokenShard, WouldOverwrite
from lipsync_lightning.files import write_atomically


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All shards of a folder, and the rule by which they are made. Sources found later go to new shards at the end."""

    rule: Mapping[str, Any]  # `Recipe.rule`
    # By shard, `<split>/<number>`, and source: which bytes it shows, None if they could not be read.
    shards: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)

    @classmethod
    def load(cls, out: Path, rule: Mapping[str, Any]) -> Self:
        """Return the plan of a folder, an empty one if it has none.

        Raises: WouldOverwrite, if the folder was planned by another rule; BrokenShard, if its plan cannot be read.
        """
        path = out / "plan.json"
        if not path.is_file():
            foreign = next(out.glob("*/*.tar"), None)
            if foreign is not None:
                raise WouldOverwrite(f"{out} holds shards without a plan, such as {foreign}; choose another out=")
            return cls(rule=rule)
        try:
            stored = json.loads(path.read_text())
            there, shards = dict(stored["rule"]), {name: dict(members) for name, members in stored["shards"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BrokenShard(f"{path} is no plan of this version ({error!r}); choose another out=") from error
        wanted = json.loads(json.dumps(rule))
        differing = sorted(key for key in {*wanted, *there} if wanted.get(key) != there.get(key))
        if differing:
            told = "; ".join(f"{key}: {there.get(key)} there, {wanted.get(key)} asked for" for key in differing)
            raise WouldOverwrite(f"{out} was prepared by another recipe ({told}); choose another out=, or delete {out}")
        return cls(rule=rule, shards=shards)

    def save(self, out: Path) -> None:
        write_atomically(out / "plan.json", json.dumps(asdict(self)).encode())

    @property
    def is_heldout(self) -> dict[str, bool]:
        """By source, whether it is planned for the held-out split."""
        return {source: shard.startswith("heldout/") for shard, members in self.shards.items() for source in members}

    @property
    def duplicate_of(self) -> dict[str, str]:
        """Names of sources that show the same bytes as one planned earlier: that one's name."""
        first: dict[str, str] = {}
        sources = [item for members in self.shards.values() for item in members.items()]
        originals = {source: first.setdefault(content, source) for source, content in sources if content}
        return {source: original for source, original in originals.items() if original != source}

    def extended(
        self, contents: Mapping[str, str | None], heldout: Mapping[str, bool], sources_per_shard: int
    ) -> "Plan":
        """Return the plan with what sources show now, and further shards for those that it does not know.

        Args:
            contents: by source, which bytes it shows.
            heldout: by source, whether it is held out if it is new.
        """
        known = self.is_heldout
        shards = {
            name: {source: contents.get(source, content) for source, content in members.items()}
            for name, members in self.shards.items()
        }
        for split, is_heldout in (("train", False), ("heldout", True)):
            new = sorted(source for source in contents.keys() - known if heldout[source] == is_heldout)
            number = sum(name.startswith(f"{split}/") for name in shards)
            for first in range(0, len(new), sources_per_shard):
                members = {source: contents[source] for source in new[first : first + sources_per_shard]}
                shards[f"{split}/{number + first // sources_per_shard:06d}"] = members
        return Plan(rule=self.rule, shards=shards)
