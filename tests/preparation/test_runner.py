import json
import os
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadConfig, NoFace, WouldOverwrite
from lipsync_lightning.media.audio import decode_flac
from lipsync_lightning.media.video import count_frames, decode_window
from tiny_media import FPS, number_of, prepared, sound_of, write_video


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


def contents(out: Path) -> dict[str, tuple[bytes, int]]:
    return {path.relative_to(out).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*.tar")}


def samples(shard: Path) -> dict[str, dict]:
    return {sample["__key__"]: sample for sample in wds.tarfile_samples([{"url": str(shard)}])}


def test_the_same_bytes_come_from_this_process_and_from_two_workers(source: Path, tmp_path: Path, clip: ClipSpec):
    prepared(source, tmp_path / "alone", clip, sources_per_shard=2, num_heldout=1)
    prepared(source, tmp_path / "two", clip, sources_per_shard=2, num_heldout=1, num_workers=2)
    alone, two = ({name: data for name, (data, _) in contents(tmp_path / out).items()} for out in ("alone", "two"))
    assert list(alone) == list(two)
    assert alone == two
    for out in ("alone", "two"):
        assert (tmp_path / out / "ledger.jsonl").read_text() == (tmp_path / "alone" / "ledger.jsonl").read_text()


@pytest.mark.parametrize("damage", ["no shard", "no sidecar", "cut shard", "cut sidecar"])
def test_an_interrupted_run_remakes_what_is_missing_and_touches_nothing_else(source: Path, tmp_path: Path, clip: ClipSpec, damage: str):
    prepared(source, tmp_path, clip, sources_per_shard=1)
    before = contents(tmp_path)
    shard = tmp_path / "train" / "000001.tar"
    damaged = shard if damage.endswith("shard") else shard.with_suffix(".json")
    if damage.startswith("no"):
        damaged.unlink()
    else:
        damaged.write_bytes(damaged.read_bytes()[:100])
    prepared(source, tmp_path, clip, sources_per_shard=1)
    after = contents(tmp_path)
    assert {name: data for name, (data, _) in before.items()} == {name: data for name, (data, _) in after.items()}
    assert [name for name in before if before[name][1] != after[name][1]] == ["train/000001.tar"]


def test_other_settings_are_refused_and_nothing_is_touched(source: Path, tmp_path: Path, clip: ClipSpec):
    prepared(source, tmp_path, clip, sources_per_shard=2)
    before = contents(tmp_path)
    other_clip = ClipSpec(**(clip.as_dict() | {"resolution": 32}))
    for used_clip, settings in (
        (other_clip, {}),
        (clip, {"min_seconds": 0.48}),
        (clip, {"num_heldout": 1}),
        (clip, {"name": "other"}),
        (clip, {"sources_per_shard": 3}),
    ):
        with pytest.raises(WouldOverwrite, match="choose another out="):
            prepared(source, tmp_path, used_clip, **({"sources_per_shard": 2} | settings))
        assert contents(tmp_path) == before


def test_fewer_shards_than_are_there_is_refused(source: Path, tmp_path: Path, clip: ClipSpec):
    prepared(source, tmp_path, clip, sources_per_shard=2)
    extra = tmp_path / "train" / "000009.tar"
    os.link(tmp_path / "train" / "000000.tar", extra)
    with pytest.raises(WouldOverwrite, match="already holds shards of another run"):
        prepared(source, tmp_path, clip, sources_per_shard=2)


def test_shards_among_the_sources_are_refused(source: Path, clip: ClipSpec):
    with pytest.raises(BadConfig, match=r"lies inside recipe.source"):
        prepared(source, source / "shards", clip, sources_per_shard=2)
    assert not (source / "shards").exists()


def test_every_bad_file_is_in_the_ledger_with_its_reason_and_stops_nothing(source: Path, tmp_path: Path, clip: ClipSpec):
    bad, out = tmp_path / "raw", tmp_path / "shards"
    write_video(bad / "m good.mp4", 20, sound_of(20))
    (bad / "empty.mp4").touch()
    (bad / "text.mp4").write_text("I am no video")
    whole = (bad / "m good.mp4").read_bytes()
    (bad / "truncated.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    write_video(bad / "silent.mp4", 20, None)
    write_video(bad / "faceless.mp4", 20, sound_of(20), without_face=range(20))
    write_video(bad / "short.mp4", 8, sound_of(20))
    write_video(bad / "short sound.mp4", 20, sound_of(5))
    write_video(bad / "pointless.mp4", 20, sound_of(20)).with_suffix(".json").unlink()
    write_video(bad / "z good.mp4", 20, sound_of(20))
    ledger = {row["source"]: row for row in prepared(bad, out, clip, sources_per_shard=3)}
    reasons = {name: " ".join(row["rejected"]) for name, row in ledger.items() if not row["clips"]}
    expected = {
        "empty.mp4": "the file is empty",
        "text.mp4": "not readable as video",
        "truncated.mp4": "truncated.mp4:",
        "silent.mp4": "no sound",
        "faceless.mp4": "no face found on any frame",
        "short.mp4": "a face with sound for 8 frames, at least 10 needed",
        "short sound.mp4": "0.20 s of sound, at least 0.4 s needed",
        "pointless.mp4": "there is no such file",
    }
    assert set(reasons) == set(expected)
    assert all(expected[name] in reason for name, reason in reasons.items())
    assert [name for name, row in ledger.items() if row["clips"]] == ["m good.mp4", "z good.mp4"]
    assert [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()] == list(ledger.values())


def test_nothing_but_bad_files_is_an_error_that_says_why(tmp_path: Path, clip: ClipSpec):
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / "raw" / name, 20, sound_of(20), without_face=range(20))
    with pytest.raises(NoFace, match=r"none of 2 sources .* gave a clip; .*no face found on any frame', 2"):
        prepared(tmp_path / "raw", tmp_path / "out", clip, sources_per_shard=2)


def test_a_clip_holds_the_frames_and_the_sound_of_its_stretch(tmp_path: Path, clip: ClipSpec):
    write_video(tmp_path / "raw" / "v.mp4", 50, sound_of(50, loud=range(33, 36)), without_face=range(12, 15))
    (row,) = prepared(tmp_path / "raw", tmp_path / "out", clip, sources_per_shard=2)
    found = samples(tmp_path / "out" / "train" / "000000.tar")
    assert list(found) == row["clips"]
    facts = [json.loads(sample["json"]) for sample in found.values()]
    assert [(each["first_frame"], each["num_frames"]) for each in facts] == [(0, 12), (15, 18), (33, 17)]
    for sample, each in zip(found.values(), facts, strict=True):
        assert count_frames(sample["mp4"]) == each["num_frames"]
        pictures = decode_window(sample["mp4"], 0, each["num_frames"])
        assert [number_of(picture) for picture in pictures] == list(range(each["first_frame"], each["first_frame"] + each["num_frames"]))
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
