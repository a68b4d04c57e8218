import json
import shutil
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadConfig, ClipTooShort, MissingWeights, StepFailed, WouldOverwrite
from lipsync_lightning.evaluation.sync import EvaluationSyncScorer
from lipsync_lightning.files import owned
from lipsync_lightning.media.audio import decode_flac, encode_flac
from lipsync_lightning.media.clips import decode_planes
from lipsync_lightning.media.shots import AdaptiveShots
from lipsync_lightning.preparation import clips, shard_job
from lipsync_lightning.preparation.executors.local import LocalExecutor
from lipsync_lightning.preparation.filters.check import Check
from lipsync_lightning.preparation.filters.sync import SyncFilter
from lipsync_lightning.preparation.ledger import CLIP, FAILED, KEPT, REJECTED, SOURCE, Row, read_ledger, totals
from odd_media import MIN_FRAMES, make_odd_folder
from simple_scorers import BrightnessScorer
from tiny_media import FPS, number_of, sound_of, write_video
from tiny_recipe import CLIP_64, prepared


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four good videos."""
    folder = tmp_path_factory.mktemp("raw videos")
    for index in range(4):
        write_video(folder / f"ä b/person {index}.mp4", 14 + index, sound_of(14 + index))
    return folder


@pytest.fixture(scope="module")
def made(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training shards of two of these videos each."""
    out = tmp_path_factory.mktemp("made") / "out"
    prepared(source, out, sources_per_shard=2)
    return out


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A copy of them."""
    return Path(shutil.copytree(made, tmp_path / "out"))


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


def of_kind(rows: Iterable[Row], kind: str) -> dict[str, Row]:
    return {str(row.source if kind == SOURCE else row.id): row for row in rows if row.kind == kind}


def test_the_ledger_knows_sources_by_their_bytes_and_kept_clips_by_their_members(source: Path, made: Path):
    rows = list(read_ledger(made))
    sources, kept = of_kind(rows, SOURCE), of_kind(rows, CLIP)
    for name, row in sources.items():
        content = (source / name).read_bytes()
        assert (row.sha256, row.num_bytes) == (sha256(content).hexdigest(), len(content))
    stored = {**samples(made / "train" / "000000.tar"), **samples(made / "train" / "000001.tar")}
    assert kept.keys() == stored.keys()
    for key, row in kept.items():
        assert row.sha256 == sha256(b"".join(stored[key][suffix] for suffix in ("flac", "json", "mp4"))).hexdigest()


class Killed(BaseException):
    """As sudden as kill -9: nothing but a `finally` gets to run."""


@pytest.mark.parametrize("killed_at", range(8))
def test_a_run_that_is_killed_anywhere_goes_on_and_ends_with_the_same_bytes(
    source: Path, made: Path, tmp_path: Path, killed_at: int, monkeypatch: pytest.MonkeyPatch
):
    """Killed at one of this run's eight moments: four sources are worked on, two shards and two pieces written."""
    moments = iter(range(100))

    def killed_before(function: Any) -> Any:
        def call(*arguments: Any, **settings: Any) -> Any:
            if next(moments) == killed_at:
                raise Killed
            return function(*arguments, **settings)

        return call

    for name in ("clips_of_source", "write_shard", "write_piece"):
        monkeypatch.setattr(shard_job, name, killed_before(getattr(shard_job, name)))
    with pytest.raises(Killed):
        prepared(source, tmp_path, sources_per_shard=2)
    before = written_at(tmp_path).get("train/000000.tar")
    prepared(source, tmp_path, sources_per_shard=2)
    assert contents(tmp_path) == contents(made)
    is_done = killed_at >= 4
    assert (written_at(tmp_path)["train/000000.tar"] == before) == is_done


@pytest.mark.parametrize("damage", ["no shard", "no sidecar", "cut shard", "no piece", "broken piece"])
def test_a_damaged_shard_is_made_again_and_no_other_is_touched(source: Path, out: Path, damage: str):
    before, times = contents(out), written_at(out)
    shard, piece = out / "train" / "000001.tar", out / "ledger" / "train-000001.parquet"
    {
        "no shard": shard.unlink,
        "no sidecar": shard.with_suffix(".json").unlink,
        "cut shard": lambda: shard.write_bytes(shard.read_bytes()[:100]),
        "no piece": piece.unlink,
        "broken piece": lambda: piece.write_text("no parquet"),
    }[damage]()
    prepared(source, out, sources_per_shard=2)
    assert contents(out) == before
    assert [name for name, time in written_at(out).items() if times[name] != time] == ["train/000001.tar"]


def test_new_sources_go_to_new_shards_and_nobody_changes_sides(source: Path, tmp_path: Path):
    raw, out = Path(shutil.copytree(source, tmp_path / "raw")), tmp_path / "out"
    settings: dict[str, Any] = {"sources_per_shard": 2, "num_heldout": 2}
    first = of_kind(prepared(raw, out, **settings), SOURCE)
    before = contents(out)
    for number in range(6):
        write_video(raw / f"a new one {number}.mp4", 20 + number, sound_of(20 + number))
    (raw / "ä b" / "person 0.mp4").unlink()
    rows = prepared(raw, out, **settings)
    sources = of_kind(rows, SOURCE)
    assert len(sources) == 10
    assert {name: row.shard for name, row in sources.items() if name in first} == {
        name: row.shard for name, row in first.items()
    }
    after = contents(out)
    assert {name for name in before if after[name] != before[name]} == {"plan.json"}


def test_a_copy_of_a_source_is_a_duplicate_also_when_it_comes_later_or_the_first_one_is_gone(
    source: Path, tmp_path: Path
):
    raw, out = Path(shutil.copytree(source / "ä b", tmp_path / "raw")), tmp_path / "out"
    prepared(raw, out, sources_per_shard=2)
    (raw / "person 1.mp4").rename(raw / "a first one.mp4")
    found = of_kind(prepared(raw, out, sources_per_shard=2), SOURCE)["a first one.mp4"]
    assert (found.verdict, found.step, found.reason) == (REJECTED, "check", "the same bytes as person 1.mp4")


def test_a_file_that_was_replaced_is_judged_anew_once_its_shard_is_made_again(source: Path, tmp_path: Path):
    raw, out = Path(shutil.copytree(source / "ä b", tmp_path / "raw")), tmp_path / "out"
    whole = (raw / "person 0.mp4").read_bytes()
    (raw / "person 0.mp4").write_bytes(whole[:500])
    (raw / "person 1.mp4").write_bytes(whole[:500])
    assert totals(prepared(raw, out, sources_per_shard=2)).sources == {KEPT: 2, REJECTED: 2}
    (raw / "person 0.mp4").write_bytes(whole)
    shutil.copy(source / "ä b" / "person 1.mp4", raw)
    (out / "ledger" / "train-000000.parquet").unlink()
    rows = prepared(raw, out, sources_per_shard=2)
    assert totals(rows).sources == {KEPT: 4}
    assert of_kind(rows, SOURCE)["person 0.mp4"].sha256 == sha256(whole).hexdigest()


@pytest.mark.parametrize("settings", [{"num_heldout": 1}, {"name": "other"}, {"clip": {"resolution": 32}}])
def test_another_data_set_is_refused_and_nothing_is_touched(source: Path, out: Path, settings: dict[str, Any]):
    (out / "train" / "000001.tar").unlink()  # as after moving shards away, with the ledger left behind
    before = contents(out)
    clip = ClipSpec(**(CLIP_64.as_dict() | settings.get("clip", {})))
    with pytest.raises(WouldOverwrite, match="choose another out="):
        prepared(source, out, sources_per_shard=2, **{**settings, "clip": clip})
    assert contents(out) == before


def test_a_failed_source_is_tried_again_when_asked_for(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    work = shard_job.clips_of_source

    def out_of_memory(source: Any, *arguments: Any) -> Any:
        if source.name.endswith("2.mp4"):
            raise MemoryError("no room")
        return work(source, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(shard_job, "clips_of_source", out_of_memory)
        rows = prepared(source, tmp_path, sources_per_shard=2)
    assert totals(rows).sources == {KEPT: 3, FAILED: 1}
    assert next(row.reason for row in rows if row.verdict == FAILED) == "MemoryError: no room"
    times = written_at(tmp_path)
    assert prepared(source, tmp_path, sources_per_shard=2) == rows
    map_all, done = LocalExecutor.map, []

    def asking_first(executor: LocalExecutor, job: Any, tasks: Any) -> Any:  # as SLURM's jobs do, which may be repeated
        done.extend(job.is_done(task.name) for task in tasks)
        return map_all(executor, job, tasks)

    monkeypatch.setattr(LocalExecutor, "map", asking_first)
    rows = prepared(source, tmp_path, sources_per_shard=2, retry_failed=True)
    assert (done, totals(rows).sources) == ([False], {KEPT: 4})
    assert [name for name, time in written_at(tmp_path).items() if times[name] != time] == ["train/000001.tar"]


@pytest.mark.parametrize("error", [torch.AcceleratorError("device lost"), OSError(28, "No space left on device")])
def test_what_every_other_source_would_meet_too_stops_the_run(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    monkeypatch.setattr(shard_job, "clips_of_source", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(type(error)):
        prepared(source, tmp_path, sources_per_shard=4)
    assert not list(read_ledger(tmp_path))


def test_weights_that_are_missing_end_the_run_before_any_work(source: Path, tmp_path: Path):
    scorer = EvaluationSyncScorer(path=str(tmp_path / "no.model"), device="cpu")
    sync = SyncFilter(scorer=scorer, clip=CLIP_64, min_confidence=3, max_offset=6)
    with pytest.raises(MissingWeights, match=r"no.model"):
        prepared(source, tmp_path / "out", sources_per_shard=4, sync=sync)
    assert not (tmp_path / "out").exists()


def test_an_executor_that_leaves_shards_out_is_told_of_and_loses_nothing(
    source: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    map_all = LocalExecutor.map
    with monkeypatch.context() as patch:
        patch.setattr(LocalExecutor, "map", lambda *arguments: islice(map_all(*arguments), 1))
        with pytest.raises(StepFailed, match=r"tells of 2 of 4 sources; run the command again"):
            prepared(source, tmp_path, sources_per_shard=2)
    prepared(source, tmp_path, sources_per_shard=2)
    assert contents(tmp_path) == contents(made)


def test_two_runs_into_one_folder_and_shards_among_the_sources_are_refused(source: Path, tmp_path: Path):
    with owned(tmp_path), pytest.raises(WouldOverwrite, match="is at work in"):
        prepared(source, tmp_path, sources_per_shard=2)
    with pytest.raises(BadConfig, match=r"lies inside recipe.source"):
        prepared(source, source / "shards", sources_per_shard=2)
    assert not (source / "shards").exists()


def test_every_odd_file_gets_the_verdict_it_deserves_and_none_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    odd_files = make_odd_folder(tmp_path / "raw")
    open_path = Path.open

    def opened(path: Path, *arguments: Any, **settings: Any) -> Any:
        if path.name == "unreadable.mp4":  # root may read everything
            raise PermissionError(13, "Permission denied", str(path))
        return open_path(path, *arguments, **settings)

    monkeypatch.setattr(Path, "open", opened)
    settings: dict[str, Any] = {
        "min_seconds": MIN_FRAMES / FPS,
        "max_seconds": 4,
        "sync": SyncFilter(scorer=BrightnessScorer(), clip=CLIP_64, min_confidence=1, max_offset=6),
        "check": Check(min_seconds=MIN_FRAMES / FPS, min_fps=10, min_side=32, min_dbfs=-60),
        "shots": AdaptiveShots(threshold=3, min_content=15, window=2, min_shot_seconds=0.6),
    }
    rows = prepared(tmp_path / "raw", tmp_path / "out", sources_per_shard=40, **settings)
    verdicts = of_kind(rows, SOURCE)
    assert set(verdicts) == {odd.source for odd in odd_files}
    for odd in odd_files:
        row = verdicts[odd.source]
        assert (row.verdict, row.step, odd.reason in str(row.reason)) == (odd.verdict, odd.step, True), (odd.name, row)
    stored = samples(tmp_path / "out" / "train" / "000000.tar")
    kept = Counter(row.source for row in rows if row.is_kept_clip)
    assert kept == {odd.source: odd.num_clips for odd in odd_files if odd.verdict == KEPT}
    found = totals(rows)
    assert found.sources.total() == len(odd_files)
    assert found.clips[KEPT] == len(stored) == kept.total()
    assert found.lost[SOURCE].total() == found.sources[REJECTED] + found.sources[FAILED]
    late = next(row for row in rows if row.kind == CLIP and row.source == "sound 0.12 s late.mp4")
    assert late.scores["sync_offset"] == -3
    sample = stored[str(late.id)]
    faces = decode_planes(sample["mp4"], [0], int(late.num_frames or 0))[0]
    assert BrightnessScorer()(faces, decode_flac(sample["flac"])).offset == 0, "the offset is corrected in the sample"


def test_a_clip_holds_the_frames_and_the_sound_of_its_stretch(tmp_path: Path):
    write_video(tmp_path / "raw" / "v.mp4", 50, sound_of(50, loud=range(33, 36)), without_face=range(12, 15))
    rows = prepared(tmp_path / "raw", tmp_path / "out", sources_per_shard=2)
    found = samples(tmp_path / "out" / "train" / "000000.tar")
    assert list(found) == list(of_kind(rows, CLIP))
    facts = [json.loads(sample["json"]) for sample in found.values()]
    assert [(each["first_frame"], each["num_frames"]) for each in facts] == [(0, 12), (15, 18), (33, 17)]
    for sample, each in zip(found.values(), facts, strict=True):
        first, num_frames = each["first_frame"], each["num_frames"]
        frames = range(first, first + num_frames)
        (shown,) = decode_planes(sample["mp4"], [0], num_frames)
        with pytest.raises(ClipTooShort):
            decode_planes(sample["mp4"], [0], num_frames + 1)
        assert [number_of(picture) for picture in shown] == list(frames)
        waveform = decode_flac(sample["flac"])
        assert len(waveform) == num_frames * CLIP_64.sample_rate_hz // FPS
        loud = np.abs(waveform).reshape(num_frames, -1).max(axis=1) > 0.1
        assert [first + int(index) for index in np.flatnonzero(loud)] == [f for f in range(33, 36) if f in frames]


def test_frames_past_the_sound_are_cut_off(tmp_path: Path):
    write_video(tmp_path / "raw" / "v.mp4", 20, sound_of(15.5))
    prepared(tmp_path / "raw", tmp_path / "out", sources_per_shard=2)
    (sample,) = samples(tmp_path / "out" / "train" / "000000.tar").values()
    assert len(decode_planes(sample["mp4"], [0], 15)[0]) == json.loads(sample["json"])["num_frames"]
    with pytest.raises(ClipTooShort):
        decode_planes(sample["mp4"], [0], 16)
    assert len(decode_flac(sample["flac"])) == 15 * 640


def test_each_video_is_decoded_once(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    decoded: list[str] = []
    read = clips.read_frames
    monkeypatch.setattr(clips, "read_frames", lambda path, **more: (decoded.append(path.name), read(path, **more))[1])
    prepared(source, tmp_path, sources_per_shard=4)
    assert sorted(decoded) == [f"person {number}.mp4" for number in range(4)]


def test_the_end_of_each_video_is_held_out_and_no_frame_is_lost_or_on_both_sides(tmp_path: Path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_video(raw / "ann.mp4", 60, sound_of(60))
    write_video(raw / "notes/end.mp4", 12, None).rename(raw / "notes/end")  # is named as an end would be
    settings: dict[str, Any] = {"sources_per_shard": 9, "heldout_end": 0.4, "max_seconds": 4.0}
    rows = prepared(raw, out, **settings)
    kept = {row.source: row for row in rows if row.is_kept_clip}
    assert {name: row.split for name, row in kept.items()} == {"ann.mp4": "train", "ann.mp4/end": "heldout"}
    assert [(row.start_s, row.stop_s) for row in kept.values()] == [(0.0, 1.44), (1.44, 2.4)]
    end = samples(out / "heldout" / "000000.tar")["tiny/ann%2Emp4/end/000000-0"]
    assert number_of(decode_planes(end["mp4"], [0], 1)[0][0, 0]) == 36
    assert len(decode_flac(end["flac"])) == 24 * 640
    before = contents(out)
    (out / "heldout" / "000000.tar").unlink()
    prepared(raw, out, **settings)
    assert contents(out) == before
    with pytest.raises(WouldOverwrite, match=r"heldout_end: 0\.4 there, None asked for"):
        prepared(raw, out, sources_per_shard=9, max_seconds=4.0)


def test_an_end_takes_its_own_points_of_a_sidecar(tmp_path: Path):
    write_video(tmp_path / "raw/ann.mp4", 60, sound_of(60), without_face=range(30))
    rows = prepared(tmp_path / "raw", tmp_path / "out", sources_per_shard=9, heldout_end=0.4, max_seconds=4.0)
    kept = {row.source: (row.start_s, row.num_frames) for row in rows if row.is_kept_clip}
    assert kept == {"ann.mp4/end": (pytest.approx(1.44), 24)}


def test_an_end_is_as_long_as_a_clip_and_too_short_a_video_is_told(tmp_path: Path):
    raw = tmp_path / "raw"
    write_video(raw / "long.mp4", 45, sound_of(40))  # as of many videos, the sound ends before the picture
    settings: dict[str, Any] = {"sources_per_shard": 9, "heldout_end": 0.01}
    prepared(raw, tmp_path / "out", **settings)
    write_video(raw / "short.mp4", 31, sound_of(31))
    rows = prepared(raw, tmp_path / "out", **settings)
    assert {row.source: row.num_frames for row in rows if row.is_kept_clip} == {"long.mp4": 23, "long.mp4/end": 17}
    reasons = [row.reason for row in rows if row.verdict == REJECTED]
    assert reasons == [
        "1.24 s of picture, at least 1.28 needed to hold out its end; give a longer video, or recipe.heldout_end=null"
    ]


def test_who_is_held_out_whole_is_not_divided(tmp_path: Path):
    for index in range(3):
        write_video(tmp_path / f"raw/{index}.mp4", 40 + index, sound_of(40 + index))
    rows = prepared(tmp_path / "raw", tmp_path / "out", sources_per_shard=9, heldout_end=0.5, num_heldout=1)
    sides = {row.source: row.split for row in rows if row.kind == SOURCE}
    (whole,) = (name for name, side in sides.items() if side == "heldout" and "end" not in name)
    assert sides == {
        f"{name}{part}": "heldout" if part else "train"
        for name in {"0.mp4", "1.mp4", "2.mp4"} - {whole}
        for part in ("", "/end")
    } | {whole: "heldout"}


def test_sound_beside_a_silent_video_gives_the_clips_of_the_two_in_one_file(tmp_path: Path):
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 20 * 640).astype(np.float32)
    beside, together = tmp_path / "beside", tmp_path / "together"
    write_video(beside / "ann.mp4", 20, None)
    (beside / "ann.flac").write_bytes(encode_flac(sound, 16000))
    write_video(together / "ann.mp4", 20, sound)
    for folder in (beside, together):
        prepared(folder, tmp_path / "out" / folder.name, sources_per_shard=1)
    made = [samples(tmp_path / "out" / folder.name / "train" / "000000.tar") for folder in (beside, together)]
    (clips,), (others,) = (each.values() for each in made)
    assert {name: data for name, data in clips.items() if name != "__url__"} == {
        name: data for name, data in others.items() if name != "__url__"
    }
    np.testing.assert_allclose(decode_flac(clips["flac"]), sound, atol=1e-4)
