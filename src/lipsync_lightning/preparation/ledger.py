"""The ledger: a row for every source and every clip, with all scores, and what became of it.

`<out>/ledger/` is a Parquet data set, one file per closed shard, so that nothing is ever rewritten; pandas, polars and DuckDB read the
folder.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from lipsync_lightning.errors import BrokenShard

KEPT, REJECTED, FAILED = "kept", "rejected", "failed"
SOURCE, CLIP = "source", "clip"
SCORES = ("sync_offset", "sync_confidence", "sync_distance", "visual_quality")  # frames, and each judge's own scale

_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("split", pa.string()),
        ("shard", pa.string()),  # `<split>/<number>`, in whose plan the source stands
        ("source", pa.string()),
        ("id", pa.string()),  # of a clip: its key in the shard, if it was kept
        ("sha256", pa.string()),  # of a source's bytes; of a kept clip's members, `FinishedClip.sha256`
        ("num_bytes", pa.int64()),  # of a source
        ("start_s", pa.float64()),  # seconds after the video's first frame
        ("stop_s", pa.float64()),
        ("num_frames", pa.int64()),
        ("person", pa.int64()),
        ("verdict", pa.string()),
        (
            "step",
            pa.string(),
        ),  # that rejected, or in which work failed; of a kept source, what kept the rest of its file from being used
        ("reason", pa.string()),
        *((score, pa.float64()) for score in SCORES),
        ("steps", pa.map_(pa.string(), pa.string())),  # version of every step the row has been through
    ]
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the ledger."""

    kind: str  # SOURCE or CLIP
    source: str
    verdict: str  # KEPT, REJECTED or FAILED
    split: str = ""
    shard: str = ""
    id: str | None = None
    sha256: str | None = None
    num_bytes: int | None = None
    start_s: float | None = None
    stop_s: float | None = None
    num_frames: int | None = None
    person: int | None = None
    step: str | None = None
    reason: str | None = None
    scores: dict[str, float] = field(default_factory=dict)
    steps: dict[str, str] = field(default_factory=dict)

    @property
    def is_kept_clip(self) -> bool:
        return self.kind == CLIP and self.verdict == KEPT

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def write_piece(out: Path, shard: str, rows: Sequence[Row]) -> Path:
    """Write the rows of one closed shard, and return the file. The same rows give the same bytes."""
    columns = {name: [_value(row, name) for row in rows] for name in _SCHEMA.names}
    data = BytesIO()
    pq.write_table(pa.table(columns, schema=_SCHEMA), data)
    path = piece_path(out, shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")  # hidden, so that readers of the folder pass over it
    part.write_bytes(data.getvalue())
    return part.replace(path)


def piece_path(out: Path, shard: str) -> Path:
    return out / "ledger" / f"{shard.replace('/', '-')}.parquet"


def read_ledger(out: Path) -> Iterator[Row]:
    """Yield the rows of all closed shards, one shard's after another's, in the order in which they were planned within each split.

    A source that was tried again has its rows more than once, in different shards; the last ones stand.
    Raises: BrokenShard, if a piece is no Parquet file of a ledger.
    """
    for rows in read_pieces(out):
        yield from rows


def read_pieces(out: Path) -> Iterator[list[Row]]:
    """Yield the rows of each closed shard; those of one source stand together. Order and errors are those of `read_ledger`."""
    pieces = (out / "ledger").glob("*.parquet")
    for piece in sorted(
        pieces, key=lambda path: (len(path.name), path.name)
    ):  # numbers have six digits, and then seven
        yield _read_piece(piece)


def _value(row: Row, name: str) -> Any:
    if name in SCORES:
        return row.scores.get(name)
    if name == "steps":
        return list(row.steps.items())
    value = getattr(row, name)
    # Parquet holds UTF-8; a path of other bytes reaches here as lone surrogates.
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _read_piece(path: Path) -> list[Row]:
    try:
        table = pq.read_table(path, schema=_SCHEMA)
    except (pa.ArrowException, OSError) as error:
        raise BrokenShard(
            f"{path} is no piece of a ledger ({error}); delete it and its shard, and run `prepare` again"
        ) from error
    return [_row(values) for values in table.to_pylist()]


def _row(values: dict[str, Any]) -> Row:
    scores = {name: values.pop(name) for name in SCORES}
    steps = dict(values.pop("steps") or [])
    return Row(**values, scores={name: score for name, score in scores.items() if score is not None}, steps=steps)
