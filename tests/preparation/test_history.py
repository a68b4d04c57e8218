from dataclasses import replace

import pytest

from lipsync_lightning.preparation.history import History
from lipsync_lightning.preparation.ledger import CLIP, FAILED, KEPT, REJECTED, SOURCE, Row

ROWS = [
    Row(
        kind=CLIP,
        source="a",
        verdict=KEPT,
        shard="train/000000",
        id="d/a/000000-0",
        steps={"check": "1", "sync": "1 x=3"},
    ),
    Row(
        kind=CLIP,
        source="a",
        verdict=REJECTED,
        shard="train/000000",
        step="sync",
        reason="9 frames",
        steps={"check": "1", "sync": "1 x=3"},
    ),
    Row(kind=SOURCE, source="a", verdict=KEPT, shard="train/000000"),
    Row(
        kind=SOURCE,
        source="b",
        verdict=REJECTED,
        shard="train/000000",
        step="check",
        reason="no sound",
        steps={"check": "1"},
    ),
    Row(kind=SOURCE, source="c", verdict=FAILED, shard="train/000000", step="work", reason="it died"),
]
AGAIN = [
    Row(
        kind=SOURCE,
        source="c",
        verdict=REJECTED,
        shard="train/000001",
        step="check",
        reason="no sound",
        steps={"check": "1"},
    ),
    Row(kind=CLIP, source="a", verdict=REJECTED, shard="train/000001", step="quality", reason="blurred"),
    Row(kind=SOURCE, source="a", verdict=REJECTED, shard="train/000001", step="quality", reason="blurred"),
]
VERSIONS = {"check": "1", "sync": "1 x=3"}


def to_try_again(history: History, versions: dict[str, str]) -> set[str]:
    return {name for name, standing in history.sources.items() if standing.may_change(versions)}


def test_kept_rejected_and_failed_sources_add_up_to_all_of_them():
    found = History.of(ROWS).totals()
    assert found.sources == {KEPT: 1, REJECTED: 1, FAILED: 1}
    assert found.num_sources == 3
    assert found.clips == {KEPT: 1, REJECTED: 1}
    assert found.reasons == {"sync": 1, "check": 1, "work": 1}


def test_a_source_that_was_tried_again_counts_once_and_as_what_it_came_to():
    found = History.of([*ROWS, *AGAIN]).totals()
    assert found.sources == {KEPT: 1, REJECTED: 2, FAILED: 0}
    assert found.clips == {KEPT: 1, REJECTED: 1}
    assert found.reasons == {"check": 2, "quality": 1}


def test_the_history_grows_by_a_shard_as_it_would_have_been_read():
    grown = History.of(ROWS)
    grown.add(AGAIN)
    assert grown.sources == History.of([*ROWS, *AGAIN]).sources


def test_rows_are_lost_as_long_as_nothing_later_was_said_of_their_source():
    history = History.of([*ROWS, *AGAIN])
    lost = [row for row in [*ROWS, *AGAIN] if history.is_still_lost(row)]
    assert [(row.kind, row.source, row.step) for row in lost] == [
        (SOURCE, "b", "check"),
        (SOURCE, "c", "check"),
        (CLIP, "a", "quality"),
    ]  # the rejected source a has clips, of which its row says no more than theirs


@pytest.mark.parametrize(
    ("versions", "names"),
    [(VERSIONS, {"c"}), (VERSIONS | {"check": "2"}, {"a", "b", "c"}), (VERSIONS | {"sync": "1 x=4"}, {"a", "c"})],
)
def test_what_failed_and_what_a_changed_step_rejected_may_come_to_something_else(
    versions: dict[str, str], names: set[str]
):
    assert to_try_again(History.of(ROWS), versions) == names


def test_what_was_kept_is_never_tried_again():
    assert not to_try_again(
        History.of([row for row in ROWS if row.verdict == KEPT]), {"check": "other", "sync": "other"}
    )


def test_an_older_shard_that_is_made_again_changes_nothing_of_what_was_said_later():
    history = History.of([*ROWS[3:], *AGAIN[:1]])
    before = history.sources["c"]
    history.add([row for row in ROWS if row.source == "c"])
    assert history.sources["c"] == before


def test_a_million_lost_rows_hold_what_they_have_in_common_once():
    rejected = [replace(ROWS[3], source=f"s{number}") for number in range(50)]
    assert len({id(lost) for standing in History.of(rejected).sources.values() for lost in standing.lost}) == 1
