import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BrokenShard, ClipMismatch, MissingShards, NoSpace
from lipsync_lightning.shards.format import FinishedClip, sidecar_path, write_shard
from lipsync_lightning.shards.reader import MEMBERS, ClipIndex, RemoteAccess, survey
from tiny_shards import find_shards

URL = "flaky://data"
NAMES = ["train/000000.tar", "train/000001.tar"]


def clips_of(name: str, num_clips: int) -> list[FinishedClip]:
    whole = {"mp4": f"picture of {name}".encode() * 100, "flac": b"sound" * 50, "json": b"{}"}
    return [
        FinishedClip(f"{name}/{number}", 20 + number, {key: data + bytes([number]) for key, data in whole.items()})
        for number in range(num_clips)
    ]


WRITTEN = [*clips_of("a", 3), *clips_of("b", 3)]


@pytest.fixture
def folder(tmp_path: Path, tiny_clip: ClipSpec) -> Path:
    for name, letter in zip(NAMES, "ab", strict=True):
        write_shard(tmp_path / "local" / name, clips_of(letter, 3), clip=tiny_clip)
    return tmp_path / "local"


@pytest.fixture
def index(folder: Path, tiny_clip: ClipSpec) -> ClipIndex:
    return ClipIndex(find_shards(folder, "train", tiny_clip))


def test_every_clip_is_read_where_it_lies_in_any_order(index: ClipIndex):
    assert index.keys.tolist() == [clip.key for clip in WRITTEN]
    assert index.num_frames.tolist() == [clip.num_frames for clip in WRITTEN]
    assert index.shard_of.tolist() == [0, 0, 0, 1, 1, 1]
    for number in (5, 0, 3):
        where = {"__key__": WRITTEN[number].key, "__url__": index.shards[number // 3].location}
        assert index.read(number) == {**where, **WRITTEN[number].members}


def test_only_wanted_members_are_read_and_parts_only_in_part(folder: Path, tiny_clip: ClipSpec):
    index = ClipIndex(find_shards(folder, "train", tiny_clip), members=("json",), parts=("mp4",))
    sample = index.read(4)
    assert sample.keys() == {"__key__", "__url__", "json", "mp4"}
    assert (sample["mp4"](3, 20), sample["mp4"].size) == (WRITTEN[4].members["mp4"][3:23], 1201)


@pytest.mark.parametrize("member", MEMBERS)
def test_one_changed_byte_of_any_member_is_noticed(index: ClipIndex, member: str):
    content = bytearray(index.shards[1].path.read_bytes())
    content[index.shards[1].place(1, member)[0]] ^= 1
    index.shards[1].path.write_bytes(content)
    with pytest.raises(BrokenShard, match=rf"b/1 in .*000001\.tar: {member} has another crc32"):
        index.read(4)
    index.read(3)
    index.read(5)


def test_a_shard_that_was_lost_or_cut_after_it_was_indexed_is_noticed(index: ClipIndex):
    path = index.shards[0].path
    for damage, reason in ((lambda: path.write_bytes(path.read_bytes()[:600]), "truncated"), (path.unlink, "missing")):
        damage()
        with pytest.raises(BrokenShard) as caught:
            index.read(2)
        assert caught.value.reason == reason


class Flaky(MemoryFileSystem):
    """Files in memory; a request fails as often as `faults` says for the end of its path, and is counted."""

    protocol: ClassVar = ("flaky",)
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar = [""]
    faults: ClassVar[dict[str, list[Any]]] = {}
    requests: ClassVar[list[str]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("flaky://", "memory://"))

    def _content(self, path: str, content: bytes) -> bytes:
        self.requests.append(path.rpartition("/")[2])
        waiting = self.faults.get(path.rpartition("/")[2], [])
        fault = waiting.pop(0) if waiting else None
        if isinstance(fault, Exception):
            raise fault
        return fault(content) if fault else content

    def cat_file(self, path: str, **kwargs: Any) -> bytes:
        return self._content(path, super().cat_file(path, **kwargs))

    def get_file(self, rpath: str, lpath: str, **kwargs: Any) -> None:
        Path(lpath).write_bytes(self._content(rpath, MemoryFileSystem.cat_file(self, rpath)))

    def ls(self, path: str, **kwargs: Any) -> Any:
        self._content(path, b"")
        return super().ls(path, **kwargs)


@pytest.fixture
def flaky(folder: Path) -> Iterator[Flaky]:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    for attribute in (Flaky.store, Flaky.faults, Flaky.requests):
        attribute.clear()
    filesystem: Flaky = fsspec.filesystem("flaky")
    for path in (folder / "train").iterdir():
        filesystem.pipe_file(f"{URL}/train/{path.name}", path.read_bytes())
    yield filesystem
    Flaky.store.clear()


def index_of(url: str, clip: ClipSpec, tmp_path: Path) -> ClipIndex:
    shards = list(survey(url, "train", clip, MEMBERS)[0].values())
    return ClipIndex(shards, remote=RemoteAccess(cache_dir=str(tmp_path / "cache")))


@pytest.mark.parametrize("scheme", ["flaky", "file", "folder"])
def test_a_data_set_is_the_same_behind_any_url(
    flaky: Flaky, folder: Path, tmp_path: Path, tiny_clip: ClipSpec, scheme: str
):
    url = {"flaky": URL, "file": f"file://{folder}", "folder": str(folder)}[scheme]
    index = index_of(f"{url}/", tiny_clip, tmp_path)
    assert [shard.location for shard in index.shards] == [f"{url}/{name}" for name in NAMES]
    for number, clip in enumerate(WRITTEN):
        sample = index.read(number)
        assert (sample["__key__"], {suffix: sample[suffix] for suffix in MEMBERS}) == (clip.key, clip.members)


def test_sidecars_are_read_first_and_each_shard_is_fetched_once_even_by_later_runs(
    flaky: Flaky, tmp_path: Path, tiny_clip: ClipSpec
):
    index = index_of(URL, tiny_clip, tmp_path)
    assert not [name for name in flaky.requests if name.endswith(".tar")]
    for clip in (3, 4, 0, 3):
        index.read(clip)
    pickle.loads(pickle.dumps(index_of(URL, tiny_clip, tmp_path))).read(5)
    assert [name for name in flaky.requests if name.endswith(".tar")] == ["000001.tar", "000000.tar"]


CUT, ALTERED = (lambda content: content[:-512]), (lambda content: content.replace(b"picture", b"pictura"))


@pytest.mark.parametrize("fault", [CUT, ALTERED, lambda content: content + b"more", ConnectionError("reset")])
def test_a_wrong_fetch_is_tried_once_more_then_the_shard_is_bad(
    flaky: Flaky, tmp_path: Path, tiny_clip: ClipSpec, fault: Any
):
    flaky.faults |= {"000000.tar": [fault], "000001.tar": [fault, fault]}
    index = index_of(URL, tiny_clip, tmp_path)
    assert index.read(0)["mp4"] == WRITTEN[0].members["mp4"]
    with pytest.raises(BrokenShard, match=r"flaky://data/train/000001\.tar was fetched twice in vain: "):
        index.read(3)
    assert index.read(3)["mp4"] == WRITTEN[3].members["mp4"], "what is not whole in the cache is fetched again"


def test_a_full_disk_is_no_fault_of_the_shard(flaky: Flaky, tmp_path: Path, tiny_clip: ClipSpec):
    flaky.faults["000000.tar"] = [OSError(28, "No space left on device")]
    with pytest.raises(NoSpace, match=r"data\.remote\.cache_dir"):
        index_of(URL, tiny_clip, tmp_path).read(0)


def test_processes_share_one_cache(folder: Path, tmp_path: Path, tiny_clip: ClipSpec):
    index = index_of(f"file://{folder}", tiny_clip, tmp_path)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        samples = pool.map(index.read, range(6), chunksize=1)
    assert [sample["mp4"] for sample in samples] == [clip.members["mp4"] for clip in WRITTEN]


def test_bad_shards_are_told_by_name_and_reason(flaky: Flaky, folder: Path, tiny_clip: ClipSpec):
    for number in (2, 3, 4, 5):
        flaky.pipe_file(f"{URL}/train/00000{number}.tar", b"cut")
        flaky.pipe_file(f"{URL}/train/00000{number}.json", sidecar_path(folder / NAMES[0]).read_bytes())
    flaky.pipe_file(f"{URL}/train/000004.tar", (folder / NAMES[0]).read_bytes())
    flaky.faults["000003.json"] = [ConnectionError("reset")]
    flaky.rm_file(f"{URL}/train/000001.json")
    flaky.rm_file(f"{URL}/train/000005.tar")
    good, bad = survey(URL, "train", tiny_clip, MEMBERS)
    assert list(good) == NAMES[:1]
    reasons = ["without sidecar", "truncated", "unreachable", "there twice", "missing"]
    assert [(name, error.reason) for name, error in sorted(bad.items())] == [
        (f"train/00000{number}.tar", reason) for number, reason in enumerate(reasons, start=1)
    ]
    assert survey(URL, "train", tiny_clip, ["latents.npy"])[1][NAMES[0]].reason == "member missing"


def test_a_split_may_be_missing_a_data_set_may_not(flaky: Flaky, tmp_path: Path, tiny_clip: ClipSpec):
    assert survey(URL, "heldout", tiny_clip, MEMBERS) == ({}, {})
    flaky.faults["data"] = [ConnectionError("reset")]
    for url, told in (
        ("flaky://nothing", "no shards at flaky://nothing "),
        (str(tmp_path), f"no shards at {tmp_path} "),
        ("nosuch://bucket", "data.shards=nosuch://bucket cannot be listed: .*Protocol not known"),
        (URL, "data.shards=flaky://data cannot be listed: ConnectionError: reset"),
    ):
        with pytest.raises(MissingShards, match=told):
            survey(url, "train", tiny_clip, MEMBERS)
    with pytest.raises(ClipMismatch, match="resolution 32 against 64"):
        survey(URL, "train", ClipSpec(**(tiny_clip.as_dict() | {"resolution": 64})), MEMBERS)


def test_a_folder_may_begin_with_the_users_home(tmp_path: Path, tiny_clip: ClipSpec, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_shard(tmp_path / "mine" / "train" / "0.tar", [FinishedClip("d/0", 9, {"mp4": b"mp4"})], clip=tiny_clip)
    good, bad = survey("~/mine", "train", tiny_clip, ["mp4"])
    assert ClipIndex(list(good.values()), members=["mp4"]).read(0)["mp4"] == b"mp4"
    assert not bad
