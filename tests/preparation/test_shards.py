import json
from pathlib import Path

import pytest

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BrokenShard, ClipMismatch, MissingShards
from lipsync_lightning.preparation.shards import FinishedClip, checked_shard, find_shards, sidecar_path, write_shard


@pytest.fixture
def shard(tmp_path: Path, tiny_clip: ClipSpec) -> Path:
    path = tmp_path / "train" / "000000.tar"
    clips = [FinishedClip(f"d/{index}", b"mp4" * 1000, b"flac", {"ä": index}) for index in range(3)]
    write_shard(path, clips, clip=tiny_clip, plan="plan", ledger=[])
    return path


def test_a_written_shard_is_found_with_its_number_of_samples(shard: Path, tiny_clip: ClipSpec):
    assert [(found.path, found.num_samples) for found in find_shards(shard.parents[1], "train", tiny_clip)] == [(shard, 3)]
    assert find_shards(shard.parents[1], "heldout", tiny_clip) == []


def test_a_cut_shard_is_refused(shard: Path, tiny_clip: ClipSpec):
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:4096])
    with pytest.raises(BrokenShard, match=f"000000.tar has 4096 bytes, its sidecar says {size}; delete it and run `prepare` again"):
        checked_shard(shard, tiny_clip)


def test_a_shard_without_sidecar_is_refused(shard: Path, tiny_clip: ClipSpec):
    sidecar_path(shard).unlink()
    with pytest.raises(BrokenShard, match=r"no sidecar 000000\.json beside it; run `prepare` again"):
        checked_shard(shard, tiny_clip)


@pytest.mark.parametrize("text", ["", "[]", '{"points": []}', '{"num_samples": 1'])
def test_a_sidecar_that_is_none_is_refused(shard: Path, tiny_clip: ClipSpec, text: str):
    sidecar_path(shard).write_text(text)
    with pytest.raises(BrokenShard, match=r"000000\.json is not a shard's sidecar"):
        checked_shard(shard, tiny_clip)


def test_a_shard_of_another_clip_is_refused_naming_what_differs(shard: Path, tiny_clip: ClipSpec):
    other = ClipSpec(**(tiny_clip.as_dict() | {"resolution": 64, "fps": 30}))
    with pytest.raises(ClipMismatch, match=r"fps 25 against 30, resolution 32 against 64"):
        checked_shard(shard, other)


def test_a_shard_serves_windows_of_other_lengths_and_another_log_mel(shard: Path, tiny_clip: ClipSpec):
    other = ClipSpec(**(tiny_clip.as_dict() | {"num_frames": 25, "mel_hz": 100, "num_mels": 64}))
    assert checked_shard(shard, other) == checked_shard(shard, tiny_clip)


def test_a_sidecar_of_an_older_clip_format_is_refused(shard: Path, tiny_clip: ClipSpec):
    facts = json.loads(sidecar_path(shard).read_text())
    del facts["clip"]["mel_hz"]
    sidecar_path(shard).write_text(json.dumps(facts))
    with pytest.raises(ClipMismatch, match=r"needs the keys"):
        checked_shard(shard, tiny_clip)


def test_a_folder_without_shards_is_refused_with_the_command_that_makes_them(tmp_path: Path, tiny_clip: ClipSpec):
    with pytest.raises(MissingShards, match=r"lipsync_lightning\.prepare"):
        find_shards(tmp_path, "train", tiny_clip)


def test_a_failure_while_writing_leaves_no_shard(tmp_path: Path, tiny_clip: ClipSpec):
    def failing():
        yield FinishedClip("d/0", b"mp4", b"flac", {})
        raise OSError("disk full")

    with pytest.raises(OSError, match=r"disk full"):
        write_shard(tmp_path / "a.tar", failing(), clip=tiny_clip, plan="", ledger=[])
    assert not (tmp_path / "a.tar").exists()
    assert not (tmp_path / "a.json").exists()
