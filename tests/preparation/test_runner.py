import io
import json
import shutil
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import webdataset as wds

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadConfig, BrokenShard, NoFace, StepFailed, WouldOverwrite
from lipsync_lightning.media.audio import decode_flac
from lipsync_lightning.media.people import SidecarPeople
from lipsync_lightning.media.video import count_frames, decode_window
from lipsync_lightning.preparation import executors, runner
from lipsync_lightning.preparation.executors.local import LocalExecutor
from lipsync_lightning.preparation.filters.check import Check
from lipsync_lightning.preparation.filters.shots import AdaptiveShots
from lipsync_lightning.preparation.filters.sync import SyncFilter
from lipsync_lightning.preparation.history import History
from lipsync_lightning.preparation.ledger import CLIP, FAILED, KEPT, REJECTED, SOURCE, Row, piece_path, read_ledger
from lipsync_lightning.preparation.parcels import Parcel
from lipsync_lightning.preparation.sources import Source
from odd_media import MIN_FRAMES, BrightnessJudge, make_odd_folder
from tiny_media import FPS, number_of, sound_of, write_video
from tiny_recipe import folder_recipe, prepared


@pytest.fixture
def clip(tiny_clip: ClipSpec) -> ClipSpec:
    """64 pixels, because libx264 repeats itself byte for byte from there on, and not always below."""
    return ClipSpec(**(tiny_clip.as_dict() | {"resolution": 64}))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four good videos."""
    folder = tmp_path_factory.mktemp("raw videos")
    for index in range(4):
        write_video(folder / f"ä b/person {index}.mp4", 14 + index, sound_of(14 + index))
    return folder


def contents(out: Path) -> dict[str, bytes]:
    """Everything that a run leaves: shards, sidecars, ledger, plan."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name[0] != "."
    }


def written_at(out: Path) -> dict[str, int]:
    return {path.relative_to(out).as_posix(): path.stat().st_mtime_ns for path in out.rglob("*.tar")}


def samples(shard: Path) -> dict[str, dict]:
    return {sample["__key__"]: sample for sample in wds.tarfile_samples([{"url": str(shard)}])}


def sources_of(rows: Iterable[Row]) -> dict[str, int]:
    return History.of(rows).totals().sources


def of_kind(rows: list[Row], kind: str) -> dict[str, Row]:
    return {str(row.source if kind == SOURCE else row.id): row for row in rows if row.kind == kind}


def test_the_same_bytes_come_from_this_process_and_from_two_workers(source: Path, tmp_path: Path, clip: ClipSpec):
    prepared(source, tmp_path / "alone", clip, sources_per_shard=2, num_heldout=1)
    prepared(source, tmp_path / "two", clip, sources_per_shard=2, num_heldout=1, num_workers=2)
    assert contents(tmp_path / "alone") == contents(tmp_path / "two")
    assert len(written_at(tmp_path / "alone")) == 3


class Killed(BaseException):
    """As sudden as kill -9: nothing but a `finally` gets to run."""


@pytest.mark.parametrize("killed_at", range(8))
def test_a_run_that_is_killed_anywhere_goes_on_and_ends_with_the_same_bytes(
    source: Path, tmp_path: Path, clip: ClipSpec, killed_at: int, monkeypatch: pytest.MonkeyPatch
):
    """Killed before one of the eight moments of this run: four sources are worked on, two shards written, two pieces of the ledger."""
    whole, out = tmp_path / "whole", tmp_path / "killed"
    prepared(source, whole, clip, sources_per_shard=2)
    moments = iter(range(100))
    worked_on: list[str] = []

    def killed_before(function: Any) -> Any:
        def call(*arguments: Any, **settings: Any) -> Any:
            if next(moments) == killed_at:
                raise Killed
            worked_on.extend(task.source.name for task in arguments if isinstance(task, executors.SourceTask))
            return function(*arguments, **settings)

        return call

    monkeypatch.setattr(executors.Job, "work", killed_before(executors.Job.work))
    monkeypatch.setattr(runner, "write_shard", killed_before(runner.write_shard))
    monkeypatch.setattr(runner, "write_piece", killed_before(runner.write_piece))
    with pytest.raises(Killed):
        prepared(source, out, clip, sources_per_shard=2)
    closed = {
        name: time for name, time in written_at(out).items() if piece_path(out, name.removesuffix(".tar")).is_file()
    }
    prepared(source, out, clip, sources_per_shard=2)
    assert contents(out) == contents(whole)
    assert len(worked_on) == len(set(worked_on)) == 4, "a finished source was worked on again"
    assert {name: written_at(out)[name] for name in closed} == closed


def test_the_ledger_knows_sources_by_their_bytes_and_kept_clips_by_their_members(
    source: Path, tmp_path: Path, clip: ClipSpec
):
    rows = prepared(source, tmp_path / "out", clip, sources_per_shard=4)
    sources, clips = of_kind(rows, SOURCE), of_kind(rows, CLIP)
    assert all(row.sha256 == sha256((source / name).read_bytes()).hexdigest() for name, row in sources.items())
    stored = samples(tmp_path / "out" / "train" / "000000.tar")
    assert clips.keys() == stored.keys()
    for key, row in clips.items():
        assert row.sha256 == sha256(b"".join(stored[key][suffix] for suffix in ("flac", "json", "mp4"))).hexdigest()


def test_half_a_parcel_is_no_parcel(source: Path, tmp_path: Path, clip: ClipSpec, monkeypatch: pytest.MonkeyPatch):
    prepared(source, tmp_path / "whole", clip, sources_per_shard=4)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "write_shard", lambda *_, **__: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            prepared(source, tmp_path / "cut", clip, sources_per_shard=4)
    parcel = tmp_path / "cut" / "work" / "train" / "000000" / "000001.tar"
    parcel.write_bytes(parcel.read_bytes()[:-3000])
    prepared(source, tmp_path / "cut", clip, sources_per_shard=4)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["no shard", "no sidecar", "cut shard"])
def test_a_closed_shard_that_was_damaged_is_made_again_and_no_other_is_touched(
    source: Path, tmp_path: Path, clip: ClipSpec, damage: str
):
    prepared(source, tmp_path, clip, sources_per_shard=1)
    before, times = contents(tmp_path), written_at(tmp_path)
    shard = tmp_path / "train" / "000001.tar"
    damaged = shard if damage.endswith("shard") else shard.with_suffix(".json")
    damaged.unlink() if damage.startswith("no") else damaged.write_bytes(damaged.read_bytes()[:100])
    prepared(source, tmp_path, clip, sources_per_shard=1)
    assert contents(tmp_path) == before
    assert [name for name, time in written_at(tmp_path).items() if times[name] != time] == ["train/000001.tar"]


def test_new_sources_go_to_new_shards_and_closed_ones_stay(source: Path, tmp_path: Path, clip: ClipSpec):
    shutil.copytree(source, tmp_path / "raw")
    prepared(tmp_path / "raw", tmp_path / "out", clip, sources_per_shard=3)
    before = contents(tmp_path / "out")
    write_video(tmp_path / "raw" / "a new one.mp4", 20, sound_of(20))
    rows = prepared(tmp_path / "raw", tmp_path / "out", clip, sources_per_shard=3)
    after = contents(tmp_path / "out")
    assert {name: data for name, data in after.items() if name in before and name != "plan.json"} == {
        name: data for name, data in before.items() if name != "plan.json"
    }
    assert {row.source: row.shard for row in rows if row.kind == SOURCE}["a new one.mp4"] == "train/000002"
    assert sources_of(rows) == {KEPT: 5, REJECTED: 0, FAILED: 0}


def test_what_was_rejected_is_tried_again_only_when_its_step_has_changed(
    tmp_path: Path, clip: ClipSpec, monkeypatch: pytest.MonkeyPatch
):
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_video(raw / "long.mp4", 30, sound_of(30))
    write_video(raw / "short.mp4", 12, sound_of(12))
    write_video(raw / "mute.mp4", 30, None)
    worked_on: list[str] = []
    work = executors.Job.work
    monkeypatch.setattr(
        executors.Job, "work", lambda job, task: (worked_on.append(task.source.name), work(job, task))[1]
    )

    def run(**settings: Any) -> list[str]:
        worked_on.clear()
        prepared(raw, out, clip, sources_per_shard=3, **settings)
        return sorted(worked_on)

    lenient = Check(min_seconds=0.4, min_fps=10, min_side=32, min_dbfs=-200)
    assert run(min_seconds=0.6, check=lenient) == ["long.mp4", "mute.mp4", "short.mp4"]
    assert run(min_seconds=0.6, check=lenient) == []
    assert run(min_seconds=0.4, check=lenient) == ["short.mp4"], (
        "shorter segments may let the short one pass; the mute one failed before"
    )
    assert sources_of(read_ledger(out)) == {KEPT: 2, REJECTED: 1, FAILED: 0}
    assert run(min_seconds=0.4, check=Check(min_seconds=0.4, min_fps=5, min_side=32, min_dbfs=-200)) == ["mute.mp4"]
    assert run(min_seconds=0.4, check=Check(min_seconds=0.4, min_fps=5, min_side=32, min_dbfs=-200)) == []
    kept = [row.id for row in read_ledger(out) if row.kind == CLIP and row.verdict == KEPT]
    assert sorted(map(str, kept)) == ["tiny/long%2Emp4/000000-0", "tiny/short%2Emp4/000000-0"]


def test_what_a_clip_of_a_closed_shard_shows_is_not_kept_a_second_time(tmp_path: Path, clip: ClipSpec):
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_video(raw / "a.mp4", 50, sound_of(50), without_face=[20, 34])
    first = prepared(raw, out, clip, sources_per_shard=1, min_seconds=0.64)
    assert [(row.verdict, row.num_frames) for row in first if row.kind == CLIP] == [
        (KEPT, 20),
        (REJECTED, 13),
        (REJECTED, 15),
    ]
    rows = prepared(raw, out, clip, sources_per_shard=1, min_seconds=0.4)
    kept = sorted(str(row.id) for row in rows if row.kind == CLIP and row.verdict == KEPT)
    assert kept == ["tiny/a%2Emp4/000000-0", "tiny/a%2Emp4/000021-0", "tiny/a%2Emp4/000035-0"]
    assert sources_of(rows) == {KEPT: 1, REJECTED: 0, FAILED: 0}


def test_another_data_set_is_refused_and_nothing_is_touched(source: Path, tmp_path: Path, clip: ClipSpec):
    prepared(source, tmp_path, clip, sources_per_shard=2)
    before = contents(tmp_path)
    other_clip = ClipSpec(**(clip.as_dict() | {"resolution": 32}))
    (tmp_path / "train" / "000001.tar").unlink()  # as after moving shards away, with the ledger left behind
    before.pop("train/000001.tar")
    for used_clip, settings in ((other_clip, {}), (clip, {"num_heldout": 1}), (clip, {"name": "other"})):
        with pytest.raises(WouldOverwrite, match="choose another out="):
            prepared(source, tmp_path, used_clip, sources_per_shard=2, **settings)
        assert contents(tmp_path) == before


def test_a_damaged_shard_whose_sources_are_gone_is_told_and_its_ledger_is_kept(
    source: Path, tmp_path: Path, clip: ClipSpec
):
    shutil.copytree(source, tmp_path / "raw")
    prepared(tmp_path / "raw", tmp_path / "out", clip, sources_per_shard=2)
    (tmp_path / "out" / "train" / "000001.tar").unlink()
    (tmp_path / "raw" / "ä b" / "person 3.mp4").unlink()
    before = contents(tmp_path / "out")
    with pytest.raises(BrokenShard, match=r"cannot be made again without ä b/person 3.mp4"):
        prepared(tmp_path / "raw", tmp_path / "out", clip, sources_per_shard=2)
    assert contents(tmp_path / "out") == before


def test_videos_that_come_later_follow_the_rule_and_move_nobody(source: Path, tmp_path: Path, clip: ClipSpec):
    shutil.copytree(source, tmp_path / "raw")
    settings: dict[str, Any] = {"sources_per_shard": 2, "num_heldout": 2}
    before = {
        row.source: row.split
        for row in prepared(tmp_path / "raw", tmp_path / "out", clip, **settings)
        if row.kind == SOURCE
    }
    for number in range(6):
        write_video(tmp_path / "raw" / f"later {number}.mp4", 20 + number, sound_of(20 + number))
    (tmp_path / "raw" / "ä b" / "person 0.mp4").unlink()
    after = {
        row.source: row.split
        for row in prepared(tmp_path / "raw", tmp_path / "out", clip, **settings)
        if row.kind == SOURCE
    }
    assert {name: after[name] for name in before} == before
    assert len(after) == 10


def test_a_rejected_file_that_was_replaced_is_tried_again(tmp_path: Path, clip: ClipSpec):
    write_video(tmp_path / "raw" / "good.mp4", 20, sound_of(20))
    whole = write_video(tmp_path / "raw" / "cut.mp4", 30, sound_of(30)).read_bytes()
    (tmp_path / "raw" / "cut.mp4").write_bytes(whole[:1000])
    assert sources_of(prepared(tmp_path / "raw", tmp_path / "out", clip, sources_per_shard=2)) == {
        KEPT: 1,
        REJECTED: 1,
        FAILED: 0,
    }
    (tmp_path / "raw" / "cut.mp4").write_bytes(whole)
    assert sources_of(prepared(tmp_path / "raw", tmp_path / "out", clip, sources_per_shard=2)) == {
        KEPT: 2,
        REJECTED: 0,
        FAILED: 0,
    }


def test_work_that_failed_on_a_source_with_kept_clips_is_noted_and_tried_again(
    tmp_path: Path, clip: ClipSpec, monkeypatch: pytest.MonkeyPatch
):
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_video(raw / "a.mp4", 50, sound_of(50), without_face=[30])
    prepared(raw, out, clip, sources_per_shard=1, min_seconds=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(executors.SourceWork, "outcomes", lambda self: (_ for _ in ()).throw(MemoryError("no room")))
        rows = prepared(raw, out, clip, sources_per_shard=1, min_seconds=0.4)
    assert History.of(rows).totals().reasons == {"work": 1}
    rows = prepared(raw, out, clip, sources_per_shard=1, min_seconds=0.4)
    assert sources_of(rows) == {KEPT: 1, REJECTED: 0, FAILED: 0}
    assert sum(row.kind == CLIP and row.verdict == KEPT for row in rows) == 2


def test_an_executor_that_leaves_sources_out_loses_nothing(
    source: Path, tmp_path: Path, clip: ClipSpec, monkeypatch: pytest.MonkeyPatch
):
    work = LocalExecutor.work
    with monkeypatch.context() as patch:
        patch.setattr(LocalExecutor, "work", lambda *arguments: islice(work(*arguments), 1))
        with pytest.raises(StepFailed, match="sources were not worked on; the same command goes on"):
            prepared(source, tmp_path / "out", clip, sources_per_shard=4)
    assert len(list((tmp_path / "out" / "work").rglob("*.tar"))) >= 1
    prepared(source, tmp_path / "out", clip, sources_per_shard=4)
    prepared(source, tmp_path / "whole", clip, sources_per_shard=4)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_clip_is_not_kept_again_because_people_were_counted_otherwise(
    tmp_path: Path, clip: ClipSpec, monkeypatch: pytest.MonkeyPatch
):
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_video(raw / "a.mp4", 50, sound_of(50), without_face=[30])
    prepared(raw, out, clip, sources_per_shard=1, min_seconds=1.0)
    monkeypatch.setattr(SidecarPeople, "version", "another")
    rows = prepared(raw, out, clip, sources_per_shard=1, min_seconds=0.4)
    kept = sorted(str(row.id) for row in rows if row.kind == CLIP and row.verdict == KEPT)
    assert kept == ["tiny/a%2Emp4/000000-0", "tiny/a%2Emp4/000031-0"]
    assert any("a clip of an earlier run shows some of it" in str(row.reason) for row in rows), "and the ledger says so"


def test_two_runs_into_one_folder_are_refused(source: Path, tmp_path: Path, clip: ClipSpec):
    with runner.alone_in(tmp_path), pytest.raises(WouldOverwrite, match="another process is preparing"):
        prepared(source, tmp_path, clip, sources_per_shard=2)


def test_shards_among_the_sources_are_refused(source: Path, clip: ClipSpec):
    with pytest.raises(BadConfig, match=r"lies inside recipe.source"):
        prepared(source, source / "shards", clip, sources_per_shard=2)
    assert not (source / "shards").exists()


def test_every_odd_file_gets_the_verdict_it_deserves_and_none_stops_the_run(
    tmp_path: Path, clip: ClipSpec, monkeypatch: pytest.MonkeyPatch
):
    odd_files = make_odd_folder(tmp_path / "raw")
    open_path = Path.open

    def opened(path: Path, *arguments: Any, **settings: Any) -> Any:
        if path.name == "unreadable.mp4":  # root may read everything
            raise PermissionError(13, "Permission denied", str(path))
        return open_path(path, *arguments, **settings)

    monkeypatch.setattr(Path, "open", opened)
    sync = SyncFilter(judge=BrightnessJudge(), clip=clip, min_confidence=3, max_offset=6)
    check = Check(min_seconds=MIN_FRAMES / FPS, min_fps=10, min_side=32, min_dbfs=-60)
    settings = {"min_seconds": MIN_FRAMES / FPS, "max_seconds": 4, "sync": sync, "check": check}
    shots = AdaptiveShots(threshold=3, min_content=15, window=2, min_shot_seconds=0.6)
    rows = prepared(tmp_path / "raw", tmp_path / "out", clip, sources_per_shard=40, shots=shots, **settings)
    verdicts = of_kind(rows, SOURCE)
    assert set(verdicts) == {odd.source for odd in odd_files}
    for odd in odd_files:
        row = verdicts[odd.source]
        assert (row.verdict, row.step) == (odd.verdict, odd.step), f"{odd.name}: {row.reason}"
        assert odd.reason in (row.reason or ""), f"{odd.name}: {row.reason}"
    clips = Counter(row.source for row in rows if row.kind == CLIP and row.verdict == KEPT)
    assert clips == {odd.source: odd.num_clips for odd in odd_files if odd.verdict == KEPT}
    assert len(samples(tmp_path / "out" / "train" / "000000.tar")) == sum(clips.values())
    found = History.of(rows).totals()
    assert sum(found.sources.values()) == len(odd_files) >= 30
    late = next(row for row in rows if row.kind == CLIP and row.source == "sound 0.12 s late.mp4")
    assert late.scores["sync_offset"] == -3
    (sample,) = (s for k, s in samples(tmp_path / "out" / "train" / "000000.tar").items() if "sound 0%2E12 s late" in k)
    faces = decode_window(sample["mp4"], 0, count_frames(sample["mp4"]))
    assert BrightnessJudge()(faces, decode_flac(sample["flac"])).offset == 0, "the offset is corrected in the sample"


def test_nothing_but_bad_files_is_an_error_that_says_why(tmp_path: Path, clip: ClipSpec):
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / "raw" / name, 20 + (name == "b.mp4"), sound_of(20), without_face=range(30))
    with pytest.raises(NoFace, match=r"none of 2 sources .* gave a clip; .*no face found on any frame \(2 times\)"):
        prepared(tmp_path / "raw", tmp_path / "out", clip, sources_per_shard=2)


def test_a_plan_that_is_damaged_is_named_and_nothing_is_made(source: Path, tmp_path: Path, clip: ClipSpec):
    prepared(source, tmp_path, clip, sources_per_shard=4)
    (tmp_path / "plan.json").write_text("[]")
    with pytest.raises(BrokenShard, match=r"plan.json is no plan"):
        prepared(source, tmp_path, clip, sources_per_shard=4)


def test_a_clip_holds_the_frames_and_the_sound_of_its_stretch(tmp_path: Path, clip: ClipSpec):
    write_video(tmp_path / "raw" / "v.mp4", 50, sound_of(50, loud=range(33, 36)), without_face=range(12, 15))
    rows = prepared(tmp_path / "raw", tmp_path / "out", clip, sources_per_shard=2)
    found = samples(tmp_path / "out" / "train" / "000000.tar")
    assert list(found) == list(of_kind(rows, CLIP))
    facts = [json.loads(sample["json"]) for sample in found.values()]
    assert [(each["first_frame"], each["num_frames"]) for each in facts] == [(0, 12), (15, 18), (33, 17)]
    for sample, each in zip(found.values(), facts, strict=True):
        assert count_frames(sample["mp4"]) == each["num_frames"]
        shown = decode_window(sample["mp4"], 0, each["num_frames"])
        assert [number_of(picture) for picture in shown] == list(
            range(each["first_frame"], each["first_frame"] + each["num_frames"])
        )
        waveform = decode_flac(sample["flac"])
        assert len(waveform) == each["num_frames"] * clip.sample_rate_hz // FPS
        loud = np.abs(waveform).reshape(each["num_frames"], -1).max(axis=1) > 0.1
        assert [each["first_frame"] + int(index) for index in np.flatnonzero(loud)] == [
            frame for frame in range(33, 36) if each["first_frame"] <= frame < each["first_frame"] + each["num_frames"]
        ]


def test_frames_past_the_sound_are_cut_off(tmp_path: Path, clip: ClipSpec):
    write_video(tmp_path / "raw" / "v.mp4", 20, sound_of(15.5))
    prepared(tmp_path / "raw", tmp_path / "out", clip, sources_per_shard=2)
    (sample,) = samples(tmp_path / "out" / "train" / "000000.tar").values()
    assert count_frames(sample["mp4"]) == 15
    assert len(decode_flac(sample["flac"])) == 15 * 640


def test_a_lost_gpu_stops_the_run_instead_of_failing_every_source(
    source: Path, tmp_path: Path, clip: ClipSpec, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        executors.SourceWork, "outcomes", lambda self: (_ for _ in ()).throw(torch.AcceleratorError("device lost"))
    )
    with pytest.raises(torch.AcceleratorError):
        prepared(source, tmp_path / "out", clip, sources_per_shard=4)
    assert not list(read_ledger(tmp_path / "out"))


def test_a_file_that_is_not_all_there_is_noted_and_tried_again_once_it_is(tmp_path: Path, clip: ClipSpec):
    raw, out = tmp_path / "raw", tmp_path / "out"
    whole = as_matroska(write_video(tmp_path / "a.mp4", 100, sound_of(100), frames=textured(100)))
    raw.mkdir()
    shutil.move(tmp_path / "a.json", raw / "a.json")
    (raw / "a.mkv").write_bytes(whole[: len(whole) // 2])
    (row,) = of_kind(prepared(raw, out, clip, sources_per_shard=1), SOURCE).values()
    assert (row.verdict, row.step) == (KEPT, "check")
    assert "breaks off after" in str(row.reason)
    assert "s of the 4.0 s it says it has" in str(row.reason)
    first = {row.id for row in read_ledger(out) if row.kind == CLIP and row.verdict == KEPT}
    done = contents(out)
    prepared(raw, out, clip, sources_per_shard=1)
    assert contents(out) == done, "the same half is not tried again"
    (raw / "a.mkv").write_bytes(whole)
    prepared(raw, out, clip, sources_per_shard=1)
    kept = {row.id for row in read_ledger(out) if row.kind == CLIP and row.verdict == KEPT}
    assert kept > first


def test_parcels_of_another_stretch_of_a_file_are_not_taken(tmp_path: Path, clip: ClipSpec):
    job = executors.Job(recipe=folder_recipe(tmp_path), clip=clip)
    tasks = [
        executors.SourceTask(source=Source(name="a", video=tmp_path / "a", **settings), parcel=Parcel(tmp_path / "p"))
        for settings in ({}, {"start_s": 1.0}, {"stop_s": 2.0}, {"crop": (0, 0, 9, 9)}, {"audio": tmp_path / "b"})
    ]
    assert len({job.fingerprint(task) for task in tasks}) == len(tasks)


def textured(num_frames: int) -> np.ndarray:
    """Frames of noise: they take many bytes, so that half a file holds about half of them."""
    return np.random.default_rng(0).integers(0, 255, size=(num_frames, 64, 64, 3), dtype=np.uint8)


def as_matroska(video: Path) -> bytes:
    """Return the same packets in the container that can be read as far as it goes."""
    written = io.BytesIO()
    with av.open(str(video)) as source, av.open(written, "w", format="matroska") as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    return written.getvalue()
