"""What became of every source so far: the ledger, folded into what fits in memory for millions of sources."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Self

from lipsync_lightning.preparation.ledger import CLIP, FAILED, KEPT, REJECTED, SOURCE, Row


@dataclass(frozen=True, kw_only=True)
class Totals:
    """How many sources and clips came to what. What was tried again counts once, as what it came to the last time."""

    sources: dict[str, int]  # by verdict, kept if any clip ever was; they add up to all sources
    clips: dict[str, int]  # by verdict
    reasons: dict[str, int]  # what was not kept by step, the commonest first: clips, and sources that came to none

    @property
    def num_sources(self) -> int:
        return sum(self.sources.values())


@dataclass(frozen=True, slots=True)
class Lost:
    """What was not kept: a clip, or a source that came to none."""

    kind: str
    verdict: str
    step: str
    steps: tuple[tuple[str, str], ...]  # version of every step it has been through


@dataclass(frozen=True, slots=True)
class Standing:
    """What one source has come to: `num_kept` over all times it was tried, all else the last time."""

    shard: str  # in whose plan it stood
    verdict: str
    is_used_up: bool  # its file was read to its end
    num_bytes: int | None
    sha256: bytes | None
    start_s: float | None
    stop_s: float | None
    num_kept: int  # clips
    has_clips: bool  # whether kept or not
    lost: tuple[Lost, ...]

    def may_change(self, versions: Mapping[str, str]) -> bool:
        """Return whether work failed, or something was rejected by a step that has changed since, or after one.

        Args: versions: of the steps, as they are now.
        """
        return any(lost.verdict == FAILED or has_changed(lost.steps, versions) for lost in self.lost)


class History:
    """By source, what the closed shards' rows come to."""

    def __init__(self) -> None:
        self.sources: dict[str, Standing] = {}
        self._known: dict[Lost, Lost] = {}  # few differ, so each is held once

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Self:
        """Return what rows come to, a shard's after another's."""
        history = cls()
        for _, of_shard in groupby(rows, key=lambda row: row.shard):
            history.add(list(of_shard))
        return history

    def add(self, rows: Sequence[Row]) -> None:
        """Take in the rows of one more closed shard."""
        for source, of_source in groupby(rows, key=lambda row: row.source):
            self.sources[source] = self._standing(source, list(of_source))

    def totals(self) -> Totals:
        """Return how many came to what."""
        standings = self.sources.values()
        verdicts = Counter(KEPT if standing.num_kept else standing.verdict for standing in standings)
        lost = Counter(lost for standing in standings for lost in standing.lost)
        reasons: Counter[str] = Counter()
        for one, count in lost.items():
            reasons[one.step] += count
        clips = {
            KEPT: sum(standing.num_kept for standing in standings),
            REJECTED: sum(count for one, count in lost.items() if one.kind == CLIP),
        }
        return Totals(
            sources={verdict: verdicts[verdict] for verdict in (KEPT, REJECTED, FAILED)},
            clips={verdict: count for verdict, count in clips.items() if count},
            reasons=dict(reasons.most_common()),
        )

    def is_still_lost(self, row: Row) -> bool:
        """Return whether a row tells of something that was not kept when it was last tried; of a source, only if it came to no clip."""
        standing = self.sources[row.source]
        return row.shard == standing.shard and _is_lost(row, standing.has_clips)

    def _standing(self, source: str, rows: Sequence[Row]) -> Standing:
        before = self.sources.get(source)
        num_kept = sum(row.is_kept_clip for row in rows) + (before.num_kept if before else 0)
        if before and is_later(before.shard, rows[0].shard):  # this one was damaged, and is made again
            return replace(before, num_kept=num_kept)
        has_clips = any(row.kind == CLIP for row in rows)
        last = next(row for row in rows if row.kind == SOURCE)
        lost = (
            Lost(row.kind, row.verdict, str(row.step), tuple(row.steps.items()))
            for row in rows
            if _is_lost(row, has_clips)
        )
        return Standing(
            shard=last.shard,
            verdict=last.verdict,
            is_used_up=last.verdict == KEPT and last.step is None,
            num_bytes=last.num_bytes,
            sha256=None if last.sha256 is None else bytes.fromhex(last.sha256),
            start_s=last.start_s,
            stop_s=last.stop_s,
            num_kept=num_kept,
            has_clips=has_clips,
            lost=tuple(self._known.setdefault(one, one) for one in lost),
        )


def is_later(shard: str, than: str) -> bool:
    """Return whether a shard was planned after another one of its split."""
    return (len(shard), shard) > (len(than), than)


def has_changed(steps: Iterable[tuple[str, str]], versions: Mapping[str, str]) -> bool:
    """Return whether any of these steps is no longer what it was."""
    return any(versions.get(step) != made_by for step, made_by in steps)


def _is_lost(row: Row, source_has_clips: bool) -> bool:
    return row.verdict == FAILED or (row.verdict == REJECTED and (row.kind == CLIP or not source_has_clips))
