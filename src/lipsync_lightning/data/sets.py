"""The data sets that a run reads: their folders, names and shares, and the shards of them that all ranks have."""

from collections.abc import Mapping, Sequence
from math import isclose
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from torch import distributed

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadConfig, BrokenShard, MissingShards
from lipsync_lightning.shards.format import Sidecar
from lipsync_lightning.shards.reader import place_of, survey

Found = tuple[dict[str, Sidecar], dict[str, BrokenShard]]  # good and bad shards by name, all sets one after another


class DataSets:
    """One data set or several, in the order of their names, however they were given.

    A set's name is the last part of its folder's path, with as many before it as tell it from the others. Of several
    sets it stands before the names of shards: `mine/train/000000.tar`.
    """

    def __init__(
        self, given: str | Sequence[str] | Mapping[str, float], *, clip: ClipSpec, max_bad_shards: int
    ) -> None:
        """Args:
            given: folder or URL; several; or their shares of each epoch.
            max_bad_shards: shards of a split, of all sets together, that may be bad and are left out.
        Raises: BadConfig.
        """
        folders = [place_of(str(each)) for each in ([given] if isinstance(given, str) else given)]
        if not folders:
            raise BadConfig("data.shards is empty; give a folder that `prepare` made, or several")
        if len(set(folders)) < len(folders):
            raise BadConfig(f"data.shards={', '.join(folders)} has a folder twice; name each once")
        names = _names(folders)
        order = sorted(range(len(folders)), key=names.__getitem__)
        self.folders, self.names = ([each[number] for number in order] for each in (folders, names))
        shares = _checked_shares(given) if isinstance(given, Mapping) else [1.0] * len(folders)
        self.shares = [shares[number] for number in order] if isinstance(given, Mapping) and len(folders) > 1 else None
        self.clip = clip
        self.max_bad_shards = max_bad_shards
        self._surveys: dict[str, Found] = {}  # by split, until it is read

    def __str__(self) -> str:
        return ", ".join(self.folders)

    def numbers(self, shards: Sequence[Sidecar]) -> np.ndarray:
        """Return which set each shard is of, (shards,), int64."""
        return np.array([self.folders.index(shard.location.rsplit("/", 2)[0]) for shard in shards], np.int64)

    def survey(self, split: str, members: Sequence[str]) -> Found:
        """Return what `reader.survey` finds in all sets. Raises: MissingShards, if one is none; ClipMismatch."""
        good, bad, name_of = {}, {}, {}
        for set_name, folder in zip(self.names, self.folders, strict=True):
            before = f"{set_name}/" if len(self.names) > 1 else ""
            its_good, its_bad = survey(folder, split, self.clip, members)
            bad |= {before + name: error for name, error in its_bad.items()}
            for name, shard in its_good.items():
                first = name_of.setdefault(shard.sha256, before + name)
                if first == before + name:
                    good[first] = shard
                else:
                    told = f"{before}{name} has the same content as {first}; leave one of the two out"
                    bad[before + name] = BrokenShard(told, "there twice")
        return good, bad

    def require(self, split: str, members: Sequence[str]) -> None:
        """Raises: MissingShards, BrokenShard or ClipMismatch now, instead of when work has begun."""
        good, bad = self._surveys[split] = self.survey(split, members)
        self._require_few_bad(bad)
        having = set(self.numbers(list(good.values())).tolist())
        lacking = [folder for number, folder in enumerate(self.folders) if number not in having]
        if not good or (lacking and self.shares and split == "train"):
            nothing = MissingShards(f"{', '.join(lacking)} holds no {split} clips; the ledger there tells why")
            raise bad[min(bad)] if bad else nothing

    def agreed(self, split: str, members: Sequence[str]) -> dict[str, Sidecar]:
        """Return the shards that all ranks have with the same content, by name. Raises: as `require`."""
        good, bad = self._surveys.pop(split, None) or self.survey(split, members)
        everyones = on_all_ranks((contents_of(good), bad))
        bad = {name: error for _, theirs in reversed(everyones) for name, error in theirs.items()}
        for name in sorted(set().union(*(theirs for theirs, _ in everyones)) - bad.keys()):
            if len({theirs.get(name) for theirs, _ in everyones}) > 1:
                bad[name] = BrokenShard(f"{name} differs between ranks; copy the same to all nodes", "not the same")
        self._require_few_bad(bad)
        for name, error in sorted(bad.items()):
            rank_zero_warn(f"left out, {error.reason}: {name}: {error}")
        return {name: shard for name, shard in good.items() if name not in bad}

    def _require_few_bad(self, bad: dict[str, BrokenShard]) -> None:
        if len(bad) > self.max_bad_shards:
            first = bad[min(bad)]
            told = f"{first} ({len(bad)} bad shards, data.max_bad_shards allows {self.max_bad_shards})"
            raise BrokenShard(told, first.reason) from first


def _names(folders: Sequence[str]) -> list[str]:
    """Return for each folder the shortest end of its path that no other one has."""
    parts = [[part for part in folder.split("/") if part] for folder in folders]
    names = []
    for own in parts:
        ends = (own[-depth:] for depth in range(1, len(own) + 1))
        names.append("/".join(next((end for end in ends if sum(each[-len(end) :] == end for each in parts) == 1), own)))
    return names


def _checked_shares(given: Mapping[str, float]) -> list[float]:
    """Raises: BadConfig, unless they are positive and sum to 1."""
    told = f"data.shards={dict(given)}: shares are positive numbers that sum to 1"
    if not all(isinstance(share, int | float) and share > 0 for share in given.values()):
        raise BadConfig(told)
    if not isclose(sum(given.values()), 1, abs_tol=1e-3, rel_tol=0):
        raise BadConfig(f"{told}, these sum to {sum(given.values()):.4g}")
    return [float(share) for share in given.values()]


def contents_of(shards: Mapping[str, Sidecar]) -> dict[str, str]:
    """Return what tells the contents of shards apart, by name."""
    return {name: shard.sha256[:16] for name, shard in shards.items()}


def on_all_ranks(mine: Any) -> list[Any]:
    """Return what every rank has, in their order; all must ask at the same time."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [mine]
    everyones: list = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyones, mine)
    return everyones
