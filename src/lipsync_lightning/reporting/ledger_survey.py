"""What the ledger tells of a data set: what was kept, what was not and why, and the scores of both."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lipsync_lightning.preparation.ledger import CLIP, KEPT, REJECTED, SCORES, Row, Totals, lost_rows, totals
from lipsync_lightning.preparation.steps.sync import NoSyncFilter

# What differs from one source to the next: numbers, paths and file names.
_PARTICULAR = re.compile(r"[^\s,;:()]*(?:\d|[/\\]|\w\.\w)[^\s,;:()]*")


@dataclass(frozen=True, kw_only=True, eq=False)
class LedgerSurvey:
    """What the rows of a ledger come to."""

    totals: Totals
    reasons: dict[tuple[str, str], int]  # of what was not kept, by step and reason without its numbers and names, the commonest first
    skipped: dict[str, int]  # steps that kept clips were not judged by, and how many of them
    scores: dict[str, dict[str, NDArray[np.float64]]]  # by name and verdict, of the clips that have them; finite ones


def survey_ledger(rows: Sequence[Row]) -> LedgerSurvey:
    """Return what a ledger comes to; what was tried again counts once, by its last rows."""
    lost = lost_rows(rows)
    kept = [row for row in rows if row.kind == CLIP and row.verdict == KEPT]
    judged = {KEPT: kept, REJECTED: [row for row in lost if row.kind == CLIP]}
    scores = {name: {verdict: _finite(of_verdict, name) for verdict, of_verdict in judged.items()} for name in SCORES}
    return LedgerSurvey(
        totals=totals(rows),
        reasons=dict(Counter((str(row.step), general(str(row.reason), row.source)) for row in lost).most_common()),
        skipped=dict(Counter(step for row in kept for step, version in row.steps.items() if version == NoSyncFilter.version)),
        scores={name: by_verdict for name, by_verdict in scores.items() if any(len(values) for values in by_verdict.values())},
    )


def kept_ids(rows: Sequence[Row]) -> dict[str, set[str]]:
    """Return the ids of kept clips by the shard that holds them, such as train/000000."""
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.kind == CLIP and row.verdict == KEPT:
            found[row.shard].add(str(row.id))
    return dict(found)


def general(reason: str, source: str) -> str:
    """Return a reason without its way out, and without what differs between sources, so that the same fault reads the same of all."""
    told = reason.rpartition(f"{source}: ")[2].partition(";")[0]
    return _PARTICULAR.sub("…", told)


def _finite(rows: Sequence[Row], name: str) -> NDArray[np.float64]:
    values = np.array([row.scores[name] for row in rows if name in row.scores], dtype=np.float64)
    return values[np.isfinite(values)]
