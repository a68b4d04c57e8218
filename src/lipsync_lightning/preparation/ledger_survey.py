"""What the ledger tells of a data set: what was kept, what was not and why, and the scores of both."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lipsync_lightning.preparation.filters.sync import NoSyncFilter
from lipsync_lightning.preparation.history import History, Totals
from lipsync_lightning.preparation.ledger import CLIP, KEPT, REJECTED, SCORES, SOURCE, Row, read_ledger, read_pieces
from lipsync_lightning.shards.format import SPLITS

# What differs from one source to the next: numbers, paths and file names.
_PARTICULAR = re.compile(r"[^\s,;:()]*(?:\d|[/\\]|\w\.\w)[^\s,;:()]*")


@dataclass(frozen=True, kw_only=True)
class SharedFiles:
    """Sources with kept clips whose files have the same bytes."""

    duplicates: list[list[str]]  # names of sources that show the same stretch of the same bytes
    in_both_splits: list[list[str]]  # names of sources of the same bytes, whatever stretch they show, one of each split


@dataclass(frozen=True, kw_only=True, eq=False)
class LedgerSurvey:
    """What a ledger comes to."""

    totals: Totals
    reasons: dict[
        tuple[str, str], int
    ]  # of what was not kept, by step and reason without its numbers and names, the commonest first
    skipped: dict[str, int]  # steps that kept clips were not judged by, and how many of them
    scores: dict[str, dict[str, NDArray[np.float64]]]  # by name and verdict, of the clips that have them; finite ones
    shared_files: SharedFiles


def survey_ledger(out: Path) -> LedgerSurvey:
    """Return what the ledger of a data set comes to; what was tried again counts once, by its last rows. Raises: BrokenShard."""
    history = History.of(read_ledger(out))
    reasons: Counter[tuple[str, str]] = Counter()
    skipped: Counter[str] = Counter()
    scores: dict[tuple[str, str], list[float]] = {key: [] for key in product(SCORES, (KEPT, REJECTED))}
    for row in read_ledger(out):
        if row.is_kept_clip:
            skipped.update(step for step, version in row.steps.items() if version == NoSyncFilter.version)
        elif history.is_still_lost(row):
            reasons[str(row.step), general(str(row.reason), row.source)] += 1
        else:
            continue
        for name, score in row.scores.items() if row.kind == CLIP else ():
            scores[name, row.verdict].append(score)
    arrays = {name: {verdict: _finite(scores[name, verdict]) for verdict in (KEPT, REJECTED)} for name in SCORES}
    return LedgerSurvey(
        totals=history.totals(),
        reasons=dict(reasons.most_common()),
        skipped=dict(skipped),
        scores={
            name: by_verdict
            for name, by_verdict in arrays.items()
            if any(len(values) for values in by_verdict.values())
        },
        shared_files=shared_files(out),
    )


def shared_files(out: Path) -> SharedFiles:
    """Return which sources with kept clips come from files with the same bytes. Raises: BrokenShard."""
    seen: set[bytes] = set()
    again: set[bytes] = set()
    for digest, _ in _files_of_clips(out):  # names are held in a second pass, of the few files that need it
        (again if digest in seen else seen).add(digest)
    rows: dict[bytes, list[Row]] = defaultdict(list)
    for digest, row in _files_of_clips(out) if again else ():
        if digest in again:
            rows[digest].append(row)
    stretches: dict[tuple[bytes, float | None, float | None], dict[str, None]] = defaultdict(dict)
    for digest, row in ((digest, row) for digest, of_file in rows.items() for row in of_file):
        stretches[digest, row.start_s, row.stop_s][row.source] = None  # a source that was tried again is one
    one_of_each = [{row.split: row.source for row in reversed(of_file)} for of_file in rows.values()]
    return SharedFiles(
        duplicates=[list(names) for names in stretches.values() if len(names) > 1],
        in_both_splits=[[names[split] for split in SPLITS] for names in one_of_each if names.keys() >= set(SPLITS)],
    )


def kept_ids(out: Path) -> Iterator[tuple[str, set[str]]]:
    """Yield shards that hold clips, such as train/000000, with the ids of those. Raises: BrokenShard."""
    for rows in read_pieces(out):
        ids = {str(row.id) for row in rows if row.is_kept_clip}
        if ids:
            yield rows[0].shard, ids


def general(reason: str, source: str) -> str:
    """Return a reason without its way out, and without what differs between sources, so that the same fault reads the same of all."""
    told = reason.rpartition(f"{source}: ")[2].partition(";")[0]
    return _PARTICULAR.sub("…", told)


def _files_of_clips(out: Path) -> Iterator[tuple[bytes, Row]]:
    """Yield the row of each source and shard of which clips were kept there, and its file's sha256 at that time."""
    for rows in read_pieces(out):
        with_clips = {row.source for row in rows if row.is_kept_clip}
        for row in rows:
            if row.kind == SOURCE and row.source in with_clips and row.sha256:
                yield bytes.fromhex(row.sha256), row


def _finite(scores: list[float]) -> NDArray[np.float64]:
    values = np.array(scores, dtype=np.float64)
    return values[np.isfinite(values)]
