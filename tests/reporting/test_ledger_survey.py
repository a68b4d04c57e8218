from itertools import groupby
from pathlib import Path

import pytest

from lipsync_lightning.preparation.ledger import CLIP, FAILED, KEPT, REJECTED, SOURCE, Row, write_piece
from lipsync_lightning.reporting.ledger_survey import survey_ledger

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
    assert {verdict: values.tolist() for verdict, values in scores["sync_offset"].items()} == {KEPT: [-2.0], REJECTED: [9.0, 1.0]}
    assert {verdict: values.tolist() for verdict, values in scores["sync_confidence"].items()} == {KEPT: [], REJECTED: [2.13]}
