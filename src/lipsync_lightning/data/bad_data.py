"""What proved bad while data were read, and which data a run reads."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

from torch import distributed

T = TypeVar("T")
_NAMED = 3  # of many names


class BadClip(NamedTuple):
    """One visit of a clip that cannot be read."""

    shard: str  # its name within the data set
    reason: str
    key: str
    num_windows: int  # that others stood in for
    of_bad_shard: bool  # which as a whole cannot be read


class BadData:
    """Counts what others stood in for, by shard and reason."""

    def __init__(self) -> None:
        self.clips: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.windows: Counter[tuple[str, str]] = Counter()
        self.shards: set[str] = set()  # that as a whole cannot be read

    def add(self, found: Iterable[BadClip]) -> None:
        for bad in found:
            self.clips[bad.shard, bad.reason].add(bad.key)
            self.windows[bad.shard, bad.reason] += bad.num_windows
            if bad.of_bad_shard:
                self.shards.add(bad.shard)

    def merged(self) -> "BadData":
        """Return what all ranks have counted."""
        whole = BadData()
        for clips, windows, shards in on_all_ranks((dict(self.clips), self.windows, self.shards)):
            for cause, keys in clips.items():
                whole.clips[cause] |= keys
            whole.windows += windows
            whole.shards |= shards
        return whole

    @property
    def num_clips(self) -> int:
        return len(set().union(*self.clips.values()))

    def lines(self) -> list[str]:
        """Return a line for each shard and reason."""
        return [
            f"{shard}, {reason}: {len(self.clips[shard, reason])} clips, others stood in for their {self.windows[shard, reason]} windows"
            for shard, reason in sorted(self.clips)
        ]


def on_all_ranks(mine: T) -> list[T]:
    """Return what every rank has, in their order; all must ask at the same time."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [mine]
    everyones: list = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyones, mine)
    return everyones


def what_changed(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """Return how two sets of shards, by name and content, differ, or None if they do not."""
    changes = {
        "no longer there": sorted(before.keys() - now.keys()),
        "new": sorted(now.keys() - before.keys()),
        "with other content": sorted(name for name in before.keys() & now.keys() if before[name] != now[name]),
    }
    return "; ".join(f"{what}: {_some(names)}" for what, names in changes.items() if names) or None


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
