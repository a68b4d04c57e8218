import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from huggingface_hub import HfFileSystem, constants

from fake_hub import FakeHub
from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data import remote
from lipsync_lightning.errors import MissingShards, NoSpace
from lipsync_lightning.shards.faults import Reason, ShardFault
from lipsync_lightning.shards.format import FinishedClip, write_shard
from lipsync_lightning.shards.reader import MEMBERS, ClipIndex
from lipsync_lightning.shards.remote import RemoteAccess, RemoteStore
from lipsync_lightning.shards.store import LocalStore, Survey, survey

URL = "flaky://data"
NAMES = ["train/000000.tar", "train/000001.tar", "train/000002.tar"]


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
        self.requests.append(path)
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
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited; without waiting."""
    waited: list[float] = []
    monkeypatch.setattr(remote, "sleep", waited.append)
    return waited


@pytest.fixture
def flaky(tmp_path: Path, tiny_clip: ClipSpec, waits: list[float]) -> Iterator[Flaky]:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    for attribute in (Flaky.store, Flaky.faults, Flaky.requests):
        attribute.clear()
    for number, name in enumerate(NAMES):
        members = {"mp4": bytes([number]) * 300, "flac": b"flac", "json": b"{}"}
        clips = [FinishedClip(f"{number}/{clip}", 10, members) for clip in range(2)]
        write_shard(tmp_path / "local" / name, clips, clip=tiny_clip)
    filesystem: Flaky = fsspec.filesystem("flaky")
    for path in (tmp_path / "local" / "train").iterdir():
        filesystem.pipe_file(f"{URL}/train/{path.name}", path.read_bytes())
    yield filesystem
    Flaky.store.clear()


def store_of(tmp_path: Path, retries: int = 2, cache_gb: float = 1.0, url: str = URL) -> RemoteStore:
    return RemoteStore(url, RemoteAccess(retries=retries, cache_dir=str(tmp_path / "cache"), cache_gb=cache_gb))


def surveyed(store: RemoteStore, clip: ClipSpec) -> Survey:
    return survey(store, "train", clip, MEMBERS)


def index_of(store: RemoteStore, clip: ClipSpec) -> ClipIndex:
    return ClipIndex(list(surveyed(store, clip).good.values()), opened=store.opened)


def test_remote_clips_are_those_of_the_folder(flaky: Flaky, tmp_path: Path, tiny_clip: ClipSpec):
    there = index_of(store_of(tmp_path), tiny_clip)
    here = ClipIndex(list(survey(LocalStore(str(tmp_path / "local")), "train", tiny_clip, MEMBERS).good.values()))
    for clip in range(6):
        assert {**there.read(clip), "__url__": None} == {**here.read(clip), "__url__": None}
    assert there.read(5)["__url__"] == f"{URL}/train/000002.tar"
    assert [(shard.name, shard.sha256) for shard in there.shards] == [
        (shard.name, shard.sha256) for shard in here.shards
    ]


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_any_filesystem_of_fsspec_serves(flaky: Flaky, tmp_path: Path, tiny_clip: ClipSpec, protocol: str):
    url = f"file://{tmp_path}/local" if protocol == "file" else "memory://test_remote"
    for path in (tmp_path / "local" / "train").iterdir():
        fsspec.filesystem("memory").pipe_file(f"memory://test_remote/train/{path.name}", path.read_bytes())
    assert index_of(store_of(tmp_path, url=url), tiny_clip).read(3)["mp4"] == b"\1" * 300
    fsspec.filesystem("memory").rm("/test_remote", recursive=True)


@pytest.fixture
def hub(flaky: Flaky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that holds the shards as a data set."""
    files = {f"shards/train/{path.name}": path.read_bytes() for path in (tmp_path / "local" / "train").iterdir()}
    hub = FakeHub(repo="datasets/someone/faces", revision="c" * 40, files=files, branches={"main": "c" * 40})
    with hub.serving():
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        HfFileSystem.clear_instance_cache()
        yield hub
    HfFileSystem.clear_instance_cache()


def test_a_data_set_of_the_hub_is_read_shard_by_shard(hub: FakeHub, tmp_path: Path, tiny_clip: ClipSpec):
    index = index_of(store_of(tmp_path, url="hf://datasets/someone/faces/shards"), tiny_clip)
    assert not [request for request in hub.requests if request.path.endswith(".tar")], "sidecars tell where clips lie"
    for clip in (3, 2):
        assert index.read(clip)["mp4"] == b"\1" * 300
    assert [request.path for request in hub.requests if request.path.endswith(".tar")] == ["shards/train/000001.tar"]


def test_a_transfer_from_the_hub_that_breaks_off_is_repeated(
    hub: FakeHub, waits: list[float], tmp_path: Path, tiny_clip: ClipSpec
):
    hub.cut_at["shards/train/000001.tar"] = 2000
    index = index_of(store_of(tmp_path, url="hf://datasets/someone/faces/shards"), tiny_clip)
    assert index.read(3)["mp4"] == b"\1" * 300
    assert len(hub.asked("GET", "shards/train/000001.tar")) >= 2


def test_only_sidecars_are_read_at_first_and_each_shard_is_fetched_once(
    flaky: Flaky, tmp_path: Path, tiny_clip: ClipSpec
):
    index = index_of(store_of(tmp_path), tiny_clip)
    assert not [path for path in flaky.requests if path.endswith(".tar")]
    for clip in (0, 1, 0, 2):
        index.read(clip)
    assert [path for path in flaky.requests if path.endswith(".tar")] == [
        "/data/train/000000.tar",
        "/data/train/000001.tar",
    ]


def test_requests_that_fail_are_repeated_after_ever_longer_waits(
    flaky: Flaky, waits: list[float], tmp_path: Path, tiny_clip: ClipSpec
):
    flaky.faults["train"] = [ConnectionError("reset")]
    flaky.faults["000000.json"] = [TimeoutError("slow")] * 3
    flaky.faults["000000.tar"] = [
        RuntimeError("of some library"),
        lambda content: content[:-512],
        lambda content: b"\1" + content[1:],
    ]
    index = index_of(store_of(tmp_path, retries=3), tiny_clip)
    assert index.read(0)["mp4"] == b"\0" * 300
    assert len(waits) == 1 + 3 + 3
    assert [0.25 * 2**attempt <= waited <= 0.5 * 2**attempt for attempt, waited in enumerate(waits[1:4])] == [True] * 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda content: content[:-512], Reason.TRUNCATED),
        (lambda content: content + b"more", Reason.WRONG_SIZE),
        (lambda content: content.replace(b"\0" * 300, b"\7" * 300), Reason.CORRUPT),
        (ConnectionError("reset"), Reason.UNREACHABLE),
    ],
)
def test_a_shard_that_stays_broken_is_bad(
    flaky: Flaky, waits: list[float], tmp_path: Path, tiny_clip: ClipSpec, fault: Any, reason: Reason
):
    flaky.faults["000000.tar"] = [fault] * 3
    index = index_of(store_of(tmp_path, retries=2), tiny_clip)
    with pytest.raises(
        ShardFault, match=r"fetching flaky://data/train/000000\.tar: failed 3 times, at last with "
    ) as caught:
        index.read(0)
    assert caught.value.reason == reason
    assert len(waits) == 2
    assert index.read(2)["mp4"] == b"\1" * 300


def test_what_is_not_there_is_not_asked_for_again(
    flaky: Flaky, waits: list[float], tmp_path: Path, tiny_clip: ClipSpec
):
    index = index_of(store_of(tmp_path), tiny_clip)
    flaky.rm_file(f"{URL}/train/000000.tar")
    with pytest.raises(ShardFault) as caught:
        index.read(0)
    assert caught.value.reason == Reason.MISSING
    assert waits == []


def test_bad_remote_shards_are_found_by_name_and_reason(flaky: Flaky, tmp_path: Path, tiny_clip: ClipSpec):
    flaky.faults["000001.json"] = [ConnectionError("reset")] * 9
    flaky.pipe_file(f"{URL}/train/000002.tar", b"cut")
    flaky.rm_file(f"{URL}/train/000000.json")
    found = surveyed(store_of(tmp_path), tiny_clip)
    assert found.good == {}
    assert {name: fault.reason for name, fault in found.bad.items()} == dict(
        zip(NAMES, [Reason.NO_SIDECAR, Reason.UNREACHABLE, Reason.TRUNCATED], strict=True)
    )


def test_a_split_that_is_not_there_has_no_shards_and_a_data_set_that_is_not_there_is_refused(
    flaky: Flaky, tmp_path: Path, tiny_clip: ClipSpec
):
    assert survey(store_of(tmp_path), "heldout", tiny_clip, MEMBERS) == Survey()
    with pytest.raises(MissingShards, match="no shards at flaky://nothing"):
        surveyed(store_of(tmp_path, url="flaky://nothing"), tiny_clip)
    with pytest.raises(MissingShards, match=r"nosuch://bucket/train cannot be opened: Protocol not known"):
        surveyed(store_of(tmp_path, url="nosuch://bucket"), tiny_clip)
    flaky.faults["train"] = [ConnectionError("reset")] * 9
    with pytest.raises(MissingShards, match=r"data\.shards=flaky://data cannot be listed: .* ConnectionError: reset"):
        surveyed(store_of(tmp_path), tiny_clip)


def test_a_full_disk_is_no_fault_of_the_shard(flaky: Flaky, waits: list[float], tmp_path: Path, tiny_clip: ClipSpec):
    flaky.faults["000000.tar"] = [OSError(28, "No space left on device")]
    with pytest.raises(NoSpace, match=r"choose another data\.remote\.cache_dir"):
        index_of(store_of(tmp_path), tiny_clip).read(0)
    assert waits == []


def test_the_same_content_under_two_names_is_found(flaky: Flaky, tmp_path: Path, tiny_clip: ClipSpec):
    for suffix in ("tar", "json"):
        flaky.pipe_file(f"{URL}/train/000001.{suffix}", (tmp_path / f"local/train/000000.{suffix}").read_bytes())
    found = surveyed(store_of(tmp_path), tiny_clip)
    assert (list(found.good), found.bad[NAMES[1]].reason) == ([NAMES[0], NAMES[2]], Reason.TWICE)


def test_the_index_of_a_remote_data_set_can_be_sent_to_another_process(
    flaky: Flaky, tmp_path: Path, tiny_clip: ClipSpec
):
    index = pickle.loads(pickle.dumps(index_of(store_of(tmp_path), tiny_clip)))
    assert index.read(4)["mp4"] == b"\2" * 300
