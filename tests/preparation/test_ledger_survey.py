from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from lipsync_lightning.preparation.ledger import CLIP, FAILED, KEPT, REJECTED, SOURCE, Row, write_piece
from lipsync_lightning.preparation.ledger_survey import SharedFiles, shared_files, survey_ledger

LEDGER = [
    Row(kind=CLIP, source="a", verdict=KEPT, shard="train/000000", id="d/a/000000-0", num_frames=37, scores={"sync_offset": -2.0}),
    Row(kind=CLIP, source="a", verdict=REJECTED, shard="train/000000", step="sync", reason="sync confidence 2.13, at least 3 needed",
        scores={"sync_offset": 9.0, "sync_confidence": 2.13}),
    Row(kind=CLIP, source="a", verdict=REJECTED, shard="train/000000", step="sync", reason="sync confidence 1.00, at least 3 needed",
        scores={"sync_offset": 1.0, "sync_confidence": float("nan")}),
    Row(kind=SOURCE, source="a", verdict=KEPT, shard="train/000000"),
    Row(kind=SOURCE, source="b", verdict=REJECTED, shard="train/000000", step="check", reason="/raw/b c.mp4: no sound"),
    Row(kind=SOURCE, source="b", verdict=FAILED, shard="train/000001", step="work", reason="it died"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for shard, rows in groupby(LEDGER, key=lambda row: row.shard):
        write_piece(tmp_path, shard, list(rows))
    return tmp_path


def test_reasons_are_counted_without_their_numbers_and_add_up_to_the_ledgers_own(folder: Path):
    found = survey_ledger(folder)
    assert found.reasons == {("sync", "sync confidence …, at least … needed"): 2, ("work", "it died"): 1}
    assert found.totals.reasons == {"sync": 2, "work": 1}


def test_scores_are_told_of_kept_and_of_rejected_clips_without_those_that_are_no_numbers(folder: Path):
    scores = survey_ledger(folder).scores
    assert list(scores) == ["sync_offset", "sync_confidence"]
    assert {verdict: values.tolist() for verdict, values in scores["sync_offset"].items()} == {
        KEPT: [-2.0],
        REJECTED: [9.0, 1.0],
    }
    assert {verdict: values.tolist() for verdict, values in scores["sync_confidence"].items()} == {
        KEPT: [],
        REJECTED: [2.13],
    }


def kept_source(name: str, file: int, shard: str, stop_s: float | None = None, num_clips: int = 1) -> list[Row]:
    place: dict[str, Any] = {"source": name, "verdict": KEPT, "shard": shard, "split": shard.partition("/")[0]}
    clips = [Row(kind=CLIP, id=f"d/{name}/{clip}", sha256="0" * 64, **place) for clip in range(num_clips)]
    return [*clips, Row(kind=SOURCE, sha256=f"{file:064x}", start_s=0.0, stop_s=stop_s, **place)]


def shared_by(out: Path, *sources: list[Row]) -> SharedFiles:
    by_shard = groupby(
        sorted((row for source in sources for row in source), key=lambda row: row.shard), key=lambda row: row.shard
    )
    for shard, rows in by_shard:
        write_piece(out, shard, list(rows))
    return shared_files(out)


def test_sources_that_show_the_same_stretch_of_the_same_bytes_are_duplicates_and_other_stretches_are_not(
    tmp_path: Path,
):
    found = shared_by(
        tmp_path,
        kept_source("a", 1, "train/000000"),
        kept_source("b", 2, "train/000000", stop_s=3.0),
        kept_source("c", 1, "train/000001", num_clips=2),
        kept_source("d", 2, "train/000001", stop_s=5.0),
        kept_source("e", 3, "train/000001"),
    )
    assert found == SharedFiles(duplicates=[["a", "c"]], in_both_splits=[])


def test_a_file_of_both_splits_is_told_whatever_the_stretch(tmp_path: Path):
    found = shared_by(
        tmp_path,
        kept_source("a", 1, "heldout/000000", stop_s=3.0),
        kept_source("b", 1, "train/000000", stop_s=5.0),
        kept_source("c", 1, "train/000001", stop_s=7.0),
        kept_source("d", 2, "train/000001"),
    )
    assert found == SharedFiles(duplicates=[], in_both_splits=[["b", "a"]])


def test_sources_without_kept_clips_and_a_source_that_was_tried_again_are_no_duplicates(tmp_path: Path):
    found = shared_by(
        tmp_path,
        kept_source("a", 1, "train/000000"),
        kept_source("b", 1, "heldout/000000", num_clips=0),
        kept_source("a", 1, "train/000001"),
        [Row(kind=SOURCE, source="c", verdict=KEPT, shard="train/000001", split="train")],
    )
    assert found == SharedFiles(duplicates=[], in_both_splits=[])


def test_a_file_that_was_replaced_after_its_clips_were_kept_counts_as_what_it_was(tmp_path: Path):
    later = kept_source("a", 2, "train/000001", num_clips=0)
    found = shared_by(tmp_path, kept_source("a", 1, "train/000000"), later, kept_source("b", 2, "train/000000"))
    assert found.duplicates == []
