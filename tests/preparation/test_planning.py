"""What a second run works on, whatever happened to files, settings and shards in between."""

import shutil
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import webdataset as wds

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import MissingWeights, StepFailed
from lipsync_lightning.evaluation.sync import EvaluationSyncScorer
from lipsync_lightning.preparation.executors.local import LocalExecutor
from lipsync_lightning.preparation.filters.check import Check
from lipsync_lightning.preparation.filters.sync import SyncFilter
from lipsync_lightning.preparation.history import History
from lipsync_lightning.preparation.ledger import CLIP, FAILED, KEPT, REJECTED, SOURCE, Row, read_ledger
from tiny_media import sound_of, write_video
from tiny_recipe import prepared


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "raw"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def run(raw: Path, out: Path, clip: ClipSpec, **settings: Any) -> list[Row]:
    return prepared(raw, out, clip, sources_per_shard=1, **settings)


def video(path: Path, num_frames: int, **settings: Any) -> Path:
    return write_video(path, num_frames, sound_of(num_frames), **settings)


def copy(original: Path, name: str) -> Path:
    """Copy a video with its points."""
    path = original.with_name(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(original.with_suffix(".json"), path.with_suffix(".json"))
    return Path(shutil.copy(original, path))


def standings(rows: list[Row]) -> dict[str, str]:
    return {
        name: KEPT if standing.num_kept else standing.verdict for name, standing in History.of(rows).sources.items()
    }


def kept_ids(rows: list[Row]) -> list[str]:
    return sorted(str(row.id) for row in rows if row.kind == CLIP and row.verdict == KEPT)


def last_reason(rows: list[Row], source: str) -> str:
    return str([row.reason for row in rows if row.kind == SOURCE and row.source == source][-1])


def test_a_judge_without_its_network_is_told_before_any_work(raw: Path, out: Path, tiny_clip: ClipSpec):
    video(raw / "a.mp4", 14)
    sync = SyncFilter(
        judge=EvaluationSyncScorer(path=str(out / "none.model"), device="cpu"),
        clip=tiny_clip,
        min_confidence=3,
        max_offset=6,
    )
    with pytest.raises(MissingWeights, match=r"none\.model"):
        run(raw, out, tiny_clip, sync=sync)
    assert not out.exists()


def test_shards_that_were_swapped_are_both_made_again(raw: Path, out: Path, tiny_clip: ClipSpec):
    for name in ("a.mp4", "b.mp4"):
        video(raw / name, 14 + (name == "b.mp4"))
    run(raw, out, tiny_clip)
    one, other = out / "train" / "000000.tar", out / "train" / "000001.tar"
    before = [one.read_bytes(), other.read_bytes()]
    one.write_bytes(before[1][: len(before[0])].ljust(len(before[0]), b"\0"))
    run(raw, out, tiny_clip)
    assert next(wds.tarfile_samples([{"url": str(one)}]))["__key__"] == "tiny/a%2Emp4/000000-0"


def test_a_renamed_video_is_a_duplicate_of_what_it_was(raw: Path, out: Path, tiny_clip: ClipSpec):
    original = video(raw / "anna.mp4", 14)
    before = kept_ids(run(raw, out, tiny_clip))
    copy(original, "berta.mp4")
    original.unlink()
    rows = run(raw, out, tiny_clip)
    assert kept_ids(rows) == before, "the same frames must not be there twice, and not on both sides of a split"
    assert last_reason(rows, "berta.mp4") == "the same bytes as anna.mp4"
    assert run(raw, out, tiny_clip) == rows


def test_a_duplicate_stays_one_when_its_original_is_gone_whose_clips_are_not(raw: Path, out: Path, tiny_clip: ClipSpec):
    original = video(raw / "a.mp4", 14)
    copy(original, "b.mp4")
    rows = run(raw, out, tiny_clip)
    original.unlink()
    assert run(raw, out, tiny_clip) == rows


def test_a_duplicate_whose_original_was_never_worked_on_is_worked_on_and_only_once(
    raw: Path, out: Path, tiny_clip: ClipSpec, monkeypatch: pytest.MonkeyPatch
):
    video(raw / "0.mp4", 20)
    original = video(raw / "a.mp4", 14)
    copy(original, "b.mp4")
    work = LocalExecutor.work
    with monkeypatch.context() as patch:
        patch.setattr(LocalExecutor, "work", lambda *arguments: islice(work(*arguments), 1))
        with pytest.raises(StepFailed):
            run(raw, out, tiny_clip)
    original.unlink()
    assert standings(run(raw, out, tiny_clip)) == {"0.mp4": KEPT, "a.mp4": FAILED, "b.mp4": REJECTED}
    rows = run(raw, out, tiny_clip)
    assert standings(rows) == {"0.mp4": KEPT, "a.mp4": FAILED, "b.mp4": KEPT}
    assert run(raw, out, tiny_clip) == rows


def test_a_duplicate_waits_for_an_original_of_which_only_the_clips_are_left(
    raw: Path, out: Path, tiny_clip: ClipSpec, monkeypatch: pytest.MonkeyPatch
):
    original = video(raw / "a.mp4", 14)
    video(raw / "b.mp4", 20)
    copy(original, "c.mp4")
    work = LocalExecutor.work
    with monkeypatch.context() as patch:
        patch.setattr(
            LocalExecutor,
            "work",
            lambda self, job, tasks: work(self, job, [task for task in tasks if task.source.name != "b.mp4"]),
        )
        with pytest.raises(StepFailed):
            prepared(raw, out, tiny_clip, sources_per_shard=2)
    original.unlink()
    assert standings(prepared(raw, out, tiny_clip, sources_per_shard=2)) == {
        "a.mp4": KEPT,
        "b.mp4": KEPT,
        "c.mp4": REJECTED,
    }


def test_a_download_that_ended_late_is_a_duplicate_of_the_copy_that_was_kept(raw: Path, out: Path, tiny_clip: ClipSpec):
    whole = video(raw / "b.mp4", 14)
    (raw / "a.mp4").touch()
    assert standings(run(raw, out, tiny_clip)) == {"a.mp4": REJECTED, "b.mp4": KEPT}
    copy(whole, "a.mp4")
    rows = run(raw, out, tiny_clip)
    assert kept_ids(rows) == ["tiny/b%2Emp4/000000-0"]
    assert last_reason(rows, "a.mp4") == "the same bytes as b.mp4"


def test_a_duplicate_that_becomes_another_video_is_worked_on(raw: Path, out: Path, tiny_clip: ClipSpec):
    copy(video(raw / "a.mp4", 14), "b.mp4")
    assert standings(run(raw, out, tiny_clip)) == {"a.mp4": KEPT, "b.mp4": REJECTED}
    video(raw / "b.mp4", 17)
    assert standings(run(raw, out, tiny_clip)) == {"a.mp4": KEPT, "b.mp4": KEPT}


def test_a_copy_of_what_a_changed_video_was_is_a_duplicate_and_of_what_it_is_now_is_not(
    raw: Path, out: Path, tiny_clip: ClipSpec
):
    was = video(raw / "a.mp4", 14)
    run(raw, out, tiny_clip)
    copy(was, "was.mp4")
    copy(video(raw / "a.mp4", 17), "is.mp4")
    assert standings(run(raw, out, tiny_clip)) == {"a.mp4": KEPT, "was.mp4": REJECTED, "is.mp4": KEPT}


def test_a_video_with_clips_that_is_tried_again_is_no_duplicate_of_a_new_copy(
    raw: Path, out: Path, tiny_clip: ClipSpec
):
    original = video(raw / "z.mp4", 50, without_face=[30])
    run(raw, out, tiny_clip, min_seconds=1.0)
    copy(original, "a.mp4")
    rows = run(raw, out, tiny_clip, min_seconds=0.4)
    assert kept_ids(rows) == ["tiny/z%2Emp4/000000-0", "tiny/z%2Emp4/000031-0"]
    assert last_reason(rows, "a.mp4") == "the same bytes as z.mp4"


def test_an_original_that_is_tried_again_is_no_duplicate_of_its_duplicate(raw: Path, out: Path, tiny_clip: ClipSpec):
    copy(video(raw / "a.mp4", 50, without_face=[30]), "b.mp4")
    run(raw, out, tiny_clip, min_seconds=1.0)
    rows = run(raw, out, tiny_clip, min_seconds=0.4)
    assert kept_ids(rows) == ["tiny/a%2Emp4/000000-0", "tiny/a%2Emp4/000031-0"]
    assert run(raw, out, tiny_clip, min_seconds=0.4) == rows


def test_nor_of_one_that_an_interrupted_run_has_left_waiting(
    raw: Path, out: Path, tiny_clip: ClipSpec, monkeypatch: pytest.MonkeyPatch
):
    copy(video(raw / "a.mp4", 50, without_face=[30]), "b.mp4")
    work = LocalExecutor.work
    with monkeypatch.context() as patch:
        patch.setattr(LocalExecutor, "work", lambda *arguments: islice(work(*arguments), 1))
        with pytest.raises(StepFailed):
            run(raw, out, tiny_clip, min_seconds=1.0)
    rows = run(raw, out, tiny_clip, min_seconds=0.4)
    assert kept_ids(rows) == ["tiny/a%2Emp4/000000-0", "tiny/a%2Emp4/000031-0"]
    assert last_reason(rows, "b.mp4") == "the same bytes as a.mp4"


def test_two_lost_shards_of_one_source_are_made_again_without_a_clip_twice(raw: Path, out: Path, tiny_clip: ClipSpec):
    video(raw / "a.mp4", 50, without_face=[30])
    run(raw, out, tiny_clip, min_seconds=1.0)
    before = kept_ids(run(raw, out, tiny_clip, min_seconds=0.4))
    assert len(before) == 2
    shutil.rmtree(out / "train")
    rows = run(raw, out, tiny_clip, min_seconds=0.4)
    assert kept_ids(rows) == before
    assert run(raw, out, tiny_clip, min_seconds=0.4) == rows


def test_a_damaged_shard_does_not_need_sources_that_gave_it_nothing(raw: Path, out: Path, tiny_clip: ClipSpec):
    video(raw / "a.mp4", 14)
    (raw / "b.mp4").touch()
    before = kept_ids(prepared(raw, out, tiny_clip, sources_per_shard=2))
    (raw / "b.mp4").unlink()
    (out / "train" / "000000.tar").unlink()
    assert kept_ids(prepared(raw, out, tiny_clip, sources_per_shard=2)) == before


def test_a_clip_rejected_once_is_tried_again_even_if_the_whole_source_was_rejected_since(
    raw: Path, out: Path, tiny_clip: ClipSpec
):
    video(raw / "a.mp4", 50, without_face=[30])
    run(raw, out, tiny_clip, min_seconds=1.0)
    strict = Check(min_seconds=9.0, min_fps=10, min_side=32, min_dbfs=-200)
    run(raw, out, tiny_clip, min_seconds=0.8, check=strict)
    rows = run(raw, out, tiny_clip, min_seconds=0.4)
    assert kept_ids(rows) == ["tiny/a%2Emp4/000000-0", "tiny/a%2Emp4/000031-0"]


def test_a_clip_that_is_there_already_is_not_counted_as_rejected(raw: Path, out: Path, tiny_clip: ClipSpec):
    video(raw / "a.mp4", 50, without_face=[30])
    run(raw, out, tiny_clip, min_seconds=1.0)
    rows = run(raw, out, tiny_clip, min_seconds=0.4)
    assert History.of(rows).totals().clips == {KEPT: 2}
    assert Counter(row.kind for row in read_ledger(out)) == {CLIP: 3, SOURCE: 2}
