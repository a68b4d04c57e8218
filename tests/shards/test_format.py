import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import pytest

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BrokenShard, ClipMismatch, MissingShards
from lipsync_lightning.shards.faults import Reason, ShardFault
from lipsync_lightning.shards.format import (
    FinishedClip,
    checked_shard,
    find_shards,
    is_whole,
    parse_sidecar,
    read_sidecar,
    sidecar_path,
    write_shard,
)
from lipsync_lightning.shards.verify import check_tar

UNSAFE_KEYS = ["../d/0", "d/../0", "/d/0", "d//0", "d/0/", "", "d\\0", "C:/d/0", "d/0.1", "d/."]


def clips_of(name: str, num_clips: int = 3) -> list[FinishedClip]:
    return [
        FinishedClip(
            f"{name}/ä {index}",
            10 + index,
            {"mp4": b"mp4" * 1000 + name.encode(), "flac": b"flac" * index, "latents.npy": b"\0" * 513},
        )
        for index in range(num_clips)
    ]


@pytest.fixture
def shard(tmp_path: Path, tiny_clip: ClipSpec) -> Path:
    path = tmp_path / "train" / "000000.tar"
    write_shard(path, clips_of("d"), clip=tiny_clip)
    return path


def reason_of(check: Callable[[], object]) -> Reason:
    with pytest.raises(ShardFault) as caught:
        check()
    return caught.value.reason


def change_sidecar(shard: Path, change: Callable[[dict], object]) -> None:
    stored = json.loads(sidecar_path(shard).read_text())
    change(stored)
    sidecar_path(shard).write_text(json.dumps(stored))


def test_a_written_shard_is_found_with_its_number_of_samples(shard: Path, tiny_clip: ClipSpec):
    assert [(found.path, found.num_samples) for found in find_shards(shard.parents[1], "train", tiny_clip)] == [
        (shard, 3)
    ]
    assert find_shards(shard.parents[1], "heldout", tiny_clip) == []


def test_the_sidecar_says_where_every_member_lies_and_what_it_is(shard: Path):
    sidecar, content = read_sidecar(shard), shard.read_bytes()
    assert sidecar.keys.tolist() == ["d/ä 0", "d/ä 1", "d/ä 2"]
    assert sidecar.num_frames.tolist() == [10, 11, 12]
    for clip, places in zip(clips_of("d"), sidecar.places.tolist(), strict=True):
        for suffix, (first, size, crc) in zip(sidecar.suffixes, places, strict=True):
            assert content[first : first + size] == clip.members[suffix]
            assert crc == crc32(clip.members[suffix])


def test_the_sidecar_has_the_published_form(shard: Path, tiny_clip: ClipSpec):
    stored = json.loads(sidecar_path(shard).read_text())
    assert list(stored) == ["format", "num_samples", "num_bytes", "sha256", "clip", "clips"]
    assert (stored["format"], stored["num_samples"], stored["clip"]) == (2, 3, tiny_clip.as_dict())
    assert list(stored["clips"][0]) == ["key", "num_frames", "members"]
    assert list(stored["clips"][0]["members"]) == ["flac", "latents.npy", "mp4"]


def test_the_same_clips_give_the_same_bytes_whatever_the_order_of_members(
    shard: Path, tmp_path: Path, tiny_clip: ClipSpec
):
    again = [FinishedClip(clip.key, clip.num_frames, dict(reversed(clip.members.items()))) for clip in clips_of("d")]
    write_shard(tmp_path / "again.tar", again, clip=tiny_clip)
    assert (tmp_path / "again.tar").read_bytes() == shard.read_bytes()
    assert (tmp_path / "again.json").read_bytes() == sidecar_path(shard).read_bytes()


def test_a_cut_shard_is_refused(shard: Path, tiny_clip: ClipSpec):
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:4096])
    with pytest.raises(
        BrokenShard, match=f"000000.tar has 4096 bytes, its sidecar says {size}; delete it and run `prepare` again"
    ):
        checked_shard(shard, tiny_clip)
    assert reason_of(lambda: checked_shard(shard, tiny_clip)) == Reason.TRUNCATED
    assert not is_whole(shard)


def test_a_shard_without_sidecar_is_refused(shard: Path, tiny_clip: ClipSpec):
    assert is_whole(shard)
    sidecar_path(shard).unlink()
    with pytest.raises(BrokenShard, match=r"no sidecar 000000\.json beside it; run `prepare` again"):
        checked_shard(shard, tiny_clip)
    assert reason_of(lambda: find_shards(shard.parents[1], "train", tiny_clip)) == Reason.NO_SIDECAR
    assert not is_whole(shard)


def test_a_sidecar_without_its_shard_is_refused_but_a_gap_is_none(shard: Path, tiny_clip: ClipSpec):
    write_shard(shard.with_name("000007.tar"), clips_of("e"), clip=tiny_clip)
    assert len(find_shards(shard.parents[1], "train", tiny_clip)) == 2
    shard.unlink()
    assert reason_of(lambda: find_shards(shard.parents[1], "train", tiny_clip)) == Reason.MISSING


def test_another_shards_content_is_told_from_a_cut_one(shard: Path, tiny_clip: ClipSpec):
    other = shard.with_name("000001.tar")
    write_shard(other, clips_of("e", num_clips=1), clip=tiny_clip)
    shard.write_bytes(other.read_bytes())
    with pytest.raises(ShardFault, match=r"000000\.tar begins with e/ä 0, its sidecar says d/ä 0"):
        checked_shard(shard, tiny_clip)
    assert reason_of(lambda: check_tar(shard)) == Reason.SWAPPED


@pytest.mark.parametrize(
    "text", ["", "[]", '{"points": []}', '{"num_samples": 1', '{"format": 2}', '{"format": 2, "clips": 3}']
)
def test_a_sidecar_that_is_none_is_refused(shard: Path, tiny_clip: ClipSpec, text: str):
    sidecar_path(shard).write_text(text)
    with pytest.raises(BrokenShard, match=r"000000\.json is not a shard's sidecar"):
        checked_shard(shard, tiny_clip)


@pytest.mark.parametrize(("stored", "told"), [({}, "format 1"), ({"format": 3}, "format 3")])
def test_a_sidecar_of_another_format_is_refused_with_the_way_out(stored: dict, told: str):
    with pytest.raises(ShardFault, match=rf"x\.json has {told}, format 2 is wanted; run `prepare` again"):
        parse_sidecar(json.dumps({"num_samples": 1, "sha256": "", **stored}), "x.json")


@pytest.mark.parametrize("key", UNSAFE_KEYS)
def test_unsafe_names_are_refused_in_sidecars_and_when_written(shard: Path, tiny_clip: ClipSpec, key: str):
    assert (
        reason_of(lambda: write_shard(shard.with_name("x.tar"), [FinishedClip(key, 1, {})], clip=tiny_clip))
        == Reason.UNSAFE
    )
    change_sidecar(shard, lambda stored: stored["clips"][1].update(key=key))
    assert reason_of(lambda: checked_shard(shard, tiny_clip)) == Reason.UNSAFE


@pytest.mark.parametrize("suffix", ["", "MP4", "../x", "a/b", ".mp4", "mp4."])
def test_unsafe_suffixes_are_refused(shard: Path, tiny_clip: ClipSpec, suffix: str):
    assert (
        reason_of(lambda: write_shard(shard.with_name("x.tar"), [FinishedClip("d", 1, {suffix: b""})], clip=tiny_clip))
        == Reason.UNSAFE
    )
    change_sidecar(shard, lambda stored: stored["clips"][1]["members"].update({suffix: [512, 1, 0]}))
    assert reason_of(lambda: checked_shard(shard, tiny_clip)) == Reason.UNSAFE


def test_a_clip_that_is_there_twice_is_refused(shard: Path, tiny_clip: ClipSpec):
    assert reason_of(lambda: write_shard(shard.with_name("x.tar"), clips_of("d") * 2, clip=tiny_clip)) == Reason.TWICE
    change_sidecar(shard, lambda stored: stored["clips"].append(stored["clips"][0]))
    assert reason_of(lambda: read_sidecar(shard)) == Reason.NOT_OURS


@pytest.mark.parametrize("place", [[-1, 5, 0], [0, 5, 0], [512, 10**9, 0], [512, -5, 0]])
def test_a_sidecar_whose_members_lie_outside_the_shard_is_refused(shard: Path, place: list[int]):
    change_sidecar(shard, lambda stored: stored["clips"][1]["members"].update(mp4=place))
    assert reason_of(lambda: read_sidecar(shard)) == Reason.NOT_OURS


def test_a_shard_of_another_clip_is_refused_naming_what_differs(shard: Path, tiny_clip: ClipSpec):
    other = ClipSpec(**(tiny_clip.as_dict() | {"resolution": 64, "fps": 30}))
    with pytest.raises(ClipMismatch, match=r"fps 25 against 30, resolution 32 against 64"):
        checked_shard(shard, other)


def test_a_shard_serves_windows_of_other_lengths_and_another_log_mel(shard: Path, tiny_clip: ClipSpec):
    other = ClipSpec(**(tiny_clip.as_dict() | {"num_frames": 25, "mel_hz": 100, "num_mels": 64}))
    assert checked_shard(shard, other).file == checked_shard(shard, tiny_clip).file


def test_a_sidecar_of_an_older_clip_format_is_refused(shard: Path, tiny_clip: ClipSpec):
    change_sidecar(shard, lambda stored: stored["clip"].pop("mel_hz"))
    with pytest.raises(ClipMismatch, match=r"needs the keys"):
        checked_shard(shard, tiny_clip)


def test_a_folder_without_shards_is_refused_with_the_command_that_makes_them(tmp_path: Path, tiny_clip: ClipSpec):
    with pytest.raises(MissingShards, match=r"lipsync_lightning\.prepare"):
        find_shards(tmp_path, "train", tiny_clip)


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path, tiny_clip: ClipSpec):
    def failing():
        yield from clips_of("d")
        raise OSError("disk full")

    with pytest.raises(OSError, match=r"disk full"):
        write_shard(tmp_path / "a.tar", failing(), clip=tiny_clip)
    assert list(tmp_path.iterdir()) == []


def test_a_whole_shard_passes_the_check_of_its_tar_and_one_changed_byte_does_not(shard: Path):
    assert check_tar(shard).num_samples == 3
    content = bytearray(shard.read_bytes())
    first = read_sidecar(shard).places[1, 0, 0]
    content[first + 2] ^= 1
    shard.write_bytes(content)
    assert reason_of(lambda: check_tar(shard)) == Reason.CORRUPT


def test_a_tar_cut_between_two_members_is_told_from_a_corrupt_one(shard: Path):
    sidecar = read_sidecar(shard)
    shard.write_bytes(shard.read_bytes()[: int(sidecar.places[2].min(axis=0)[0]) - 512 * 3])
    assert reason_of(lambda: check_tar(shard)) == Reason.TRUNCATED


@pytest.mark.parametrize("name", ["../evil.mp4", "/etc/evil.mp4", "d/../evil.mp4", "d\\evil.mp4", "d/link.mp4"])
def test_a_tar_with_unsafe_names_or_links_is_refused_whatever_its_sidecar_says(shard: Path, name: str):
    with tarfile.open(shard, "a") as archive:
        member = tarfile.TarInfo(name)
        if "link" in name:
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member, io.BytesIO())
    change_sidecar(shard, lambda stored: stored.update(num_bytes=shard.stat().st_size))
    assert reason_of(lambda: check_tar(shard)) == Reason.UNSAFE
