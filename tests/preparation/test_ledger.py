from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from lipsync_lightning.preparation.ledger import (
    CLIP,
    FAILED,
    KEPT,
    REJECTED,
    SOURCE,
    Row,
    read_ledger,
    totals,
    write_piece,
)

IN_SHARD: Any = {"shard": "train/000000", "split": "train"}
CLIP_FACTS: Any = {"id": "d/a/000000-0", "start_s": 0.0, "stop_s": 1.5, "num_frames": 37, "person": 0}
OFF = {"sync_offset": 9.0}
ROWS = [
    Row(kind=CLIP, source="a", verdict=KEPT, scores={**OFF, "sync_confidence": 4.5}, **IN_SHARD, **CLIP_FACTS),
    Row(kind=CLIP, source="a", verdict=REJECTED, step="sync", reason="9 frames", scores=OFF, **IN_SHARD),
    Row(kind=SOURCE, source="a", verdict=KEPT, sha256="0" * 64, **IN_SHARD),
    Row(kind=SOURCE, source="ü b", verdict=REJECTED, step="check", reason="no sound", **IN_SHARD),
    Row(kind=SOURCE, source="c", verdict=FAILED, step="work", reason="it died", **IN_SHARD),
]


def test_shards_come_in_the_order_in_which_they_were_planned_whatever_the_length_of_their_numbers(tmp_path: Path):
    names = ["train/000002", "train/000010", "train/999999", "train/1000000", "train/1000001"]
    for name in reversed(names):
        write_piece(tmp_path, name, [replace(ROWS[2], shard=name)])
    assert [row.shard for row in read_ledger(tmp_path)] == names


def test_totals_add_up_and_tell_what_each_step_rejected():
    found = totals(ROWS)
    assert found.sources == {KEPT: 1, REJECTED: 1, FAILED: 1}
    assert found.clips == {KEPT: 1, REJECTED: 1}
    assert found.lost == {CLIP: {"sync": 1}, SOURCE: {"check": 1, "work": 1}}


def test_rows_come_back_as_they_were_written_from_a_parquet_data_set_that_anything_reads(tmp_path: Path):
    write_piece(tmp_path, "train/000000", ROWS[:3])
    write_piece(tmp_path, "train/000001", ROWS[3:])
    assert list(read_ledger(tmp_path)) == ROWS
    assert pq.read_table(tmp_path / "ledger")["source"].to_pylist() == [row.source for row in ROWS]
