"""The ledger: a row for every source and every clip, with all scores, and what became of it.

`<out>/ledger/` is a Parquet data set, one file per finished shard; pandas, polars and DuckDB read the folder.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from lipsync_lightning.errors import BrokenShard
from lipsync_lightning.files import write_atomically

KEPT, REJECTED, FAILED = "kept", "rejected", "failed"
SOURCE, CLIP = "source", "clip"
SCORES = ("sync_offset", "sync_confidence", "sync_distance", "visual_quality")  # frames, and each scorer's own scale

_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("kind", "split", "shard", "source", "id", "sha256")),
        *(("num_bytes", pa.int64()), ("start_s", pa.float64()), ("stop_s", pa.float64())),
        *(("num_frames", pa.int64()), ("person", pa.int64())),
        *((name, pa.string()) for name in ("verdict", "step", "reason")),
        *((score, pa.float64()) for score in SCORES),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the ledger."""

    kind: str  # SOURCE or CLIP
    source: str
    verdict: str  # KEPT, REJECTED or FAILED; a source is kept if any of its clips is
    split: str = ""
    shard: str = ""  # `<split>/<number>`, in which the source is planned
    id: str | None = None  # of a clip: its key in the shard, if it was kept
    sha256: str | None = None  # of a source's file when it was planned; of a kept clip's members
    num_bytes: int | None = None  # of a source's file
    start_s: float | None = None  # seconds after the video's first frame
    stop_s: float | None = None
    num_frames: int | None = None
    person: int | None = None
    step: str | None = None  # that rejected, or "work"; of a kept source, why not all of its file could be used
    reason: str | None = None
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def is_kept_clip(self) -> bool:
        return self.kind == CLIP and self.verdict == KEPT


class Totals(NamedTuple):
    sources: Counter[str]  # by verdict; they add up to all sources
    clips: Counter[str]  # by verdict
    lost: dict[str, Counter[str]]  # by kind and step: what was rejected, or failed


def write_piece(out: Path, shard: str, rows: Sequence[Row]) -> Path:
    """Write the rows of one finished shard, and return the file. The same rows give the same bytes."""
    records = [
        # Parquet holds UTF-8; a path of other bytes comes as a text of lone surrogates.
        {**asdict(row), **row.scores, "reason": row.reason and row.reason.encode(errors="backslashreplace").decode()}
        for row in rows
    ]
    data = BytesIO()
    pq.write_table(pa.Table.from_pylist(records, schema=_SCHEMA), data)
    return write_atomically(piece_path(out, shard), data.getvalue())


def piece_path(out: Path, shard: str) -> Path:
    return out / "ledger" / f"{shard.replace('/', '-')}.parquet"


def read_piece(path: Path) -> list[Row]:
    """Return the rows of one shard. Raises: BrokenShard, if this is no Parquet file of a ledger."""
    try:
        table = pq.read_table(path, schema=_SCHEMA)
    except (pa.ArrowException, OSError) as error:
        raise BrokenShard(f"{path} is no piece of a ledger ({error}); delete it and run `prepare` again") from error
    rows = []
    for values in table.to_pylist():
        scores = {name: score for name in SCORES if (score := values.pop(name)) is not None}
        rows.append(Row(**values, scores=scores))
    return rows


def read_ledger(out: Path) -> Iterator[Row]:
    """Yield the rows of all finished shards, those of each split in the order of planning. Raises: BrokenShard."""
    pieces = (out / "ledger").glob("*.parquet")
    for piece in sorted(pieces, key=lambda path: (len(path.name), path.name)):  # numbers have six digits, then seven
        yield from read_piece(piece)


def totals(rows: Iterable[Row]) -> Totals:
    """Return how many sources and clips came to what."""
    found = Totals(Counter(), Counter(), {SOURCE: Counter(), CLIP: Counter()})
    for row in rows:
        (found.sources if row.kind == SOURCE else found.clips)[row.verdict] += 1
        if row.verdict != KEPT:
            found.lost[row.kind][str(row.step)] += 1
    return found
