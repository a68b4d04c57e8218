import sys
import tracemalloc
from io import BytesIO
from pathlib import Path

import pytest

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BrokenShard
from lipsync_lightning.shards.faults import ClipFault, Reason, ShardFault
from lipsync_lightning.shards.format import FinishedClip, find_shards, write_shard
from lipsync_lightning.shards.reader import ClipIndex


def clips_of(name: str, num_clips: int, **members: bytes) -> list[FinishedClip]:
    whole = {"mp4": f"picture of {name}".encode() * 100, "flac": b"sound" * 50, "json": b"{}", **members}
    return [
        FinishedClip(f"{name}/{number}", 20 + number, {key: data + bytes([number]) for key, data in whole.items()})
        for number in range(num_clips)
    ]


@pytest.fixture
def folder(tmp_path: Path, tiny_clip: ClipSpec) -> Path:
    for number, name in enumerate(("a", "b")):
        write_shard(tmp_path / "train" / f"{number:06d}.tar", clips_of(name, 3), clip=tiny_clip)
    return tmp_path


@pytest.fixture
def index(folder: Path, tiny_clip: ClipSpec) -> ClipIndex:
    return ClipIndex(find_shards(folder, "train", tiny_clip))


def test_every_clip_is_read_where_it_lies(index: ClipIndex):
    written = [*clips_of("a", 3), *clips_of("b", 3)]
    assert index.keys.tolist() == [clip.key for clip in written]
    assert index.num_frames.tolist() == [clip.num_frames for clip in written]
    assert index.shard_of.tolist() == [0, 0, 0, 1, 1, 1]
    for number in (5, 0, 3):
        assert index.read(number) == {
            "__key__": written[number].key,
            "__url__": index.shards[number // 3].location,
            **written[number].members,
        }


def test_no_shard_is_opened_before_a_clip_is_read(folder: Path, tiny_clip: ClipSpec):
    shards = find_shards(folder, "train", tiny_clip)
    for shard in shards:
        shard.path.unlink()
    index = ClipIndex(shards)
    assert len(index) == 6
    with pytest.raises(ShardFault) as caught:
        index.read(0)
    assert caught.value.reason == Reason.MISSING


@pytest.mark.parametrize("member", ["mp4", "flac", "json"])
def test_one_changed_byte_of_any_member_is_noticed(index: ClipIndex, member: str):
    content = bytearray(index.shards[1].path.read_bytes())
    content[index.places[4, index.members.index(member), 0]] ^= 1
    index.shards[1].path.write_bytes(content)
    with pytest.raises(ClipFault, match=rf"b/1 in .*000001\.tar: the {member} has another crc32") as caught:
        index.read(4)
    assert caught.value.reason == Reason.CORRUPT
    index.read(3)
    index.read(5)


def test_another_shards_content_of_the_same_size_is_noticed(index: ClipIndex):
    one, other = (shard.path for shard in index.shards)
    assert one.stat().st_size == other.stat().st_size
    one.write_bytes(other.read_bytes())
    with pytest.raises(ShardFault, match=r"000000\.tar begins with b/0, its sidecar says a/0") as caught:
        index.read(2)
    assert caught.value.reason == Reason.SWAPPED
    index.read(3)


def test_a_shard_that_was_cut_after_it_was_indexed_is_noticed(index: ClipIndex):
    path = index.shards[0].path
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ClipFault, match=r"a/2 in .*000000\.tar: .* bytes of .* wanted") as caught:
        index.read(2)
    assert caught.value.reason == Reason.TRUNCATED


def test_a_clip_that_lacks_a_wanted_member_is_refused_naming_what_it_has(folder: Path, tiny_clip: ClipSpec):
    lacking = [*clips_of("c", 2), FinishedClip("c/x", 9, {"mp4": b"", "json": b""})]
    write_shard(folder / "train" / "000002.tar", lacking, clip=tiny_clip)
    with pytest.raises(ShardFault, match=r"c/x in .*000002\.tar: no 'flac' member \(has \['json', 'mp4'\]\)") as caught:
        ClipIndex(find_shards(folder, "train", tiny_clip))
    assert caught.value.reason == Reason.INCOMPLETE
    assert isinstance(caught.value, BrokenShard)


def test_only_the_members_that_are_wanted_are_needed_and_read(tmp_path: Path, tiny_clip: ClipSpec):
    write_shard(
        tmp_path / "train" / "0.tar", [FinishedClip("d", 7, {"json": b"{}", "latents.npy": b"z"})], clip=tiny_clip
    )
    index = ClipIndex(find_shards(tmp_path, "train", tiny_clip), members=("latents.npy", "json"))
    assert index.read(0) == {
        "__key__": "d",
        "__url__": str(tmp_path / "train" / "0.tar"),
        "latents.npy": b"z",
        "json": b"{}",
    }


class Unreadable(BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("wanted", [{"members": ("json",)}, {"members": (), "parts": ("mp4",)}])
def test_a_disk_that_fails_is_a_fault_of_the_clip_read_whole_or_in_parts(
    folder: Path, tiny_clip: ClipSpec, wanted: dict
):
    index = ClipIndex(find_shards(folder, "train", tiny_clip), **wanted, opened=lambda shard: Unreadable())
    with pytest.raises(ClipFault, match=r"000000\.tar.* cannot be read: Input/output error") as caught:
        index.read(0)["mp4"](0, 10)
    assert caught.value.reason == Reason.UNREACHABLE


def test_no_shards_make_an_empty_index():
    assert len(ClipIndex([])) == 0


def num_open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere open files are not listed there")
def test_reading_leaves_no_file_open_and_no_memory_taken(index: ClipIndex):
    def read_many() -> None:
        for number in range(600):
            index.read(number % 6)

    read_many()
    tracemalloc.start()
    open_before, before = num_open_files(), tracemalloc.get_traced_memory()[0]
    read_many()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert num_open_files() == open_before
    assert after - before < 20_000
