import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import pytest
import webdataset

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BrokenShard, MissingShards
from lipsync_lightning.shards.format import (
    FinishedClip,
    is_whole,
    read_sidecar,
    sidecar_path,
    write_shard,
)
from tiny_shards import find_shards


def clips_of(name: str, num_clips: int = 3) -> list[FinishedClip]:
    members = {"mp4": b"mp4" * 1000 + name.encode(), "latents.npy": b"\0" * 513, "json": b'{"num_frames": 7}'}
    return [
        FinishedClip(f"{name}/ä {'long ' * 30}{index}", 10 + index, {**members, "flac": b"flac" * index})
        for index in range(num_clips)
    ]


@pytest.fixture
def shard(tmp_path: Path, tiny_clip: ClipSpec) -> Path:
    path = tmp_path / "train" / "000000.tar"
    write_shard(path, clips_of("d"), clip=tiny_clip)
    return path


def reason_of(check: Callable[[], object]) -> str:
    with pytest.raises(BrokenShard) as caught:
        check()
    return caught.value.reason


def change_sidecar(shard: Path, change: Callable[[dict], object]) -> None:
    stored = json.loads(sidecar_path(shard).read_text())
    change(stored)
    sidecar_path(shard).write_text(json.dumps(stored))


def test_the_sidecar_says_where_every_member_lies_and_what_it_is(shard: Path, tiny_clip: ClipSpec):
    sidecar, content = read_sidecar(shard), shard.read_bytes()
    assert sidecar.keys.tolist() == [clip.key for clip in clips_of("d")]
    assert sidecar.num_frames.tolist() == [10, 11, 12]
    assert (sidecar.name, sidecar.clip, sidecar.num_bytes) == ("train/000000.tar", tiny_clip, len(content))
    assert sidecar.sha256 == hashlib.sha256(content).hexdigest()
    for number, clip in enumerate(clips_of("d")):
        for suffix, data in clip.members.items():
            first, size, crc = sidecar.place(number, suffix)
            assert (content[first : first + size], crc) == (data, crc32(data))


def test_webdataset_reads_our_shards(shard: Path):
    samples = list(webdataset.WebDataset(str(shard), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [clip.key for clip in clips_of("d")]
    for sample, clip in zip(samples, clips_of("d"), strict=True):
        assert {suffix: sample[suffix] for suffix in clip.members} == clip.members
        assert sample["__url__"] == str(shard)


@pytest.mark.parametrize("step", [1, -1])
def test_the_bytes_are_those_of_earlier_versions_in_whatever_order_members_come(tmp_path, tiny_clip, step: int):
    """Shards that were made before the current code are made again with the same bytes."""
    members = dict([("mp4", b"mp4" * 1000), ("latents.npy", b"\0" * 513), ("json", b"{}")][::step])
    clips = [FinishedClip(f"d/{'x' * 120} ä {i}", 10 + i, {**members, "flac": b"flac" * i}) for i in range(3)]
    write_shard(tmp_path / "0.tar", clips, clip=tiny_clip)
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in tmp_path.iterdir()} == {
        "0.tar": "354dd2c35b9c014f",
        "0.json": "e62ffdac22108192",
    }


def test_a_failure_leaves_what_was_there_and_a_sidecar_never_stands_beside_another_shards_content(
    shard: Path, tiny_clip: ClipSpec, monkeypatch
):
    before = {path.name: path.read_bytes() for path in shard.parent.iterdir()}
    with pytest.raises(BrokenShard, match="would be written twice"):
        write_shard(shard, [*clips_of("e"), *clips_of("e")], clip=tiny_clip)
    assert {path.name: path.read_bytes() for path in shard.parent.iterdir()} == before

    def killed(path: Path, data: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lipsync_lightning.shards.format.write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        write_shard(shard, clips_of("e"), clip=tiny_clip)
    assert not is_whole(shard)
    assert [path.name for path in shard.parent.iterdir()] == ["000000.tar"]


UNSAFE_KEYS = ["../d/0", "d/../0", "/d/0", "d//0", "d/0/", "", "d\\0", "C:/d/0", "d/0.1", "d/."]
UNSAFE_SUFFIXES = ["", "MP4", "../x", "a/b", ".mp4", "mp4.", "_mp4"]


@pytest.mark.parametrize(
    ("key", "suffix"), [*((key, "mp4") for key in UNSAFE_KEYS), *(("d", suffix) for suffix in UNSAFE_SUFFIXES)]
)
def test_unsafe_or_ambiguous_names_are_not_written(tmp_path: Path, tiny_clip: ClipSpec, key: str, suffix: str):
    clip = FinishedClip(key, 1, {suffix: b""})
    assert reason_of(lambda: write_shard(tmp_path / "x.tar", [clip], clip=tiny_clip)) == "unsafe name"


def test_whole_shards_are_found_and_a_gap_in_their_numbers_is_no_fault(shard: Path, tiny_clip: ClipSpec):
    write_shard(shard.with_name("000007.tar"), clips_of("e"), clip=tiny_clip)
    write_shard(shard.with_name("000008.tar"), [], clip=tiny_clip)
    found = find_shards(shard.parents[1], "train", tiny_clip)
    assert [(each.path.name, each.num_samples) for each in found] == [("000000.tar", 3), ("000007.tar", 3)]
    assert find_shards(shard.parents[1], "heldout", tiny_clip) == []
    with pytest.raises(MissingShards, match=r"lipsync_lightning\.prepare"):
        find_shards(shard.parent, "train", tiny_clip)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda shard: shard.write_bytes(shard.read_bytes()[:-512]), "truncated"),
        (lambda shard: shard.write_bytes(shard.read_bytes() + b"more"), "wrong size"),
        (lambda shard: shard.unlink(), "missing"),
        (lambda shard: sidecar_path(shard).unlink(), "without sidecar"),
        (lambda shard: change_sidecar(shard, lambda stored: stored.update(format=1)), "sidecar not ours"),
        (lambda shard: change_sidecar(shard, lambda stored: stored["clip"].pop("mel_hz")), "sidecar not ours"),
        *((lambda shard, text=text: sidecar_path(shard).write_text(text), "sidecar not ours") for text in (
            "", "[]", '{"points": []}', '{"num_samples": 1', '{"format": 2}', '{"format": 2, "clips": 3}',
        )),
    ],
)  # fmt: skip
def test_a_bad_shard_is_refused_with_its_reason(shard: Path, tiny_clip: ClipSpec, damage: Callable, reason: str):
    assert is_whole(shard)
    damage(shard)
    assert reason_of(lambda: find_shards(shard.parents[1], "train", tiny_clip)) == reason
    assert not is_whole(shard)
