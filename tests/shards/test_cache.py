import hashlib
import multiprocessing
import os
import signal
from pathlib import Path
from time import sleep

import pytest

from lipsync_lightning.data import shard_cache
from lipsync_lightning.errors import NoSpace
from lipsync_lightning.shards.cache import ShardCache
from lipsync_lightning.shards.format import ShardFile

SIZE = 1000
FORK = multiprocessing.get_context("fork")


def shard_of(number: int) -> ShardFile:
    content = bytes([number]) * SIZE
    return ShardFile(f"memory://d/train/{number:06d}.tar", SIZE, hashlib.sha256(content).hexdigest())


class Fetch:
    """Writes a shard's content, and a line into a log."""

    def __init__(self, log: Path, seconds: float = 0.0) -> None:
        self.log = log
        self.seconds = seconds

    def of(self, number: int):
        def fetch(part: Path) -> None:
            with self.log.open("a") as log:
                log.write(f"{number}\n")
            sleep(self.seconds)
            part.write_bytes(bytes([number]) * SIZE)

        return fetch

    @property
    def fetched(self) -> list[int]:
        return [int(line) for line in self.log.read_text().split()] if self.log.exists() else []


@pytest.fixture
def cache(tmp_path: Path) -> ShardCache:
    return ShardCache(folder=tmp_path / "cache", max_bytes=3 * SIZE)


@pytest.fixture
def fetch(tmp_path: Path) -> Fetch:
    return Fetch(tmp_path / "log")


def read(cache: ShardCache, fetch: Fetch, number: int) -> bytes:
    with cache.opened(shard_of(number), fetch.of(number)) as file:
        return file.read()


def held(cache: ShardCache) -> set[bytes]:
    return {path.read_bytes()[:1] for path in cache.folder.glob("*.tar")}


def test_a_shard_is_fetched_once(cache: ShardCache, fetch: Fetch):
    assert [read(cache, fetch, 1) for _ in range(3)] == [b"\1" * SIZE] * 3
    assert fetch.fetched == [1]


def test_the_one_not_read_for_longest_goes_first(cache: ShardCache, fetch: Fetch):
    for number in (1, 2, 3, 1, 4):
        read(cache, fetch, number)
        sleep(0.02)
    assert fetch.fetched == [1, 2, 3, 4]
    assert held(cache) == {b"\1", b"\3", b"\4"}


def test_one_that_is_being_read_stays(cache: ShardCache, fetch: Fetch):
    with cache.opened(shard_of(1), fetch.of(1)) as file:
        for number in (2, 3, 4, 5):
            read(cache, fetch, number)
            sleep(0.02)
        assert held(cache) == {b"\1", b"\4", b"\5"}
        assert file.read() == b"\1" * SIZE
    read(cache, fetch, 6)
    assert b"\1" not in held(cache)


def test_it_never_holds_more_than_its_bound_and_says_when_that_is_too_little(
    cache: ShardCache, fetch: Fetch, monkeypatch
):
    monkeypatch.setattr(shard_cache, "_PATIENCE_S", 0.3)
    opened = [cache.opened(shard_of(number), fetch.of(number)) for number in (1, 2, 3)]
    for one in opened:
        one.__enter__()
    with pytest.raises(
        NoSpace, match=r"000004\.tar: all shards in it have been in use for .* raise data\.remote\.cache_gb"
    ):
        read(cache, fetch, 4)
    opened[0].__exit__(None, None, None)
    assert read(cache, fetch, 4) == b"\4" * SIZE


def test_what_others_keep_in_its_folder_is_neither_counted_nor_removed(cache: ShardCache, fetch: Fetch):
    cache.folder.mkdir()
    foreign = [
        "000000.tar",
        "holiday-2.tar",
        "notes.part",
        f"{'a' * 64}.tar",
        f"{'g' * 64}-5.tar",
        f"{'a' * 64}-5.tar.gz",
    ]
    for name in foreign:
        (cache.folder / name).write_bytes(b"theirs" * SIZE)
    for number in (1, 2, 3, 4):
        read(cache, fetch, number)
        sleep(0.02)
    assert held(cache) == {b"t", b"\2", b"\3", b"\4"}, "b't' of theirs, and as many of its own as without them"
    assert {name for name in foreign if (cache.folder / name).read_bytes() == b"theirs" * SIZE} == set(foreign)


def test_a_shard_larger_than_the_bound_is_refused_at_once(cache: ShardCache, fetch: Fetch):
    cache.max_bytes = SIZE - 1
    with pytest.raises(NoSpace, match=r"000001\.tar has 1e-06 GB, more than data\.remote\.cache_gb=9\.99e-07"):
        read(cache, fetch, 1)


def test_a_failed_fetch_leaves_nothing_and_the_next_one_may_succeed(cache: ShardCache, fetch: Fetch):
    def failing(part: Path) -> None:
        part.write_bytes(b"half")
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError), cache.opened(shard_of(1), failing):
        pass
    assert not [path for path in cache.folder.iterdir() if path.suffix in {".tar", ".part"}]
    assert read(cache, fetch, 1) == b"\1" * SIZE


def test_a_file_that_lost_its_content_is_fetched_again(cache: ShardCache, fetch: Fetch):
    read(cache, fetch, 1)
    next(cache.folder.glob("*.tar")).write_bytes(b"")
    assert read(cache, fetch, 1) == b"\1" * SIZE


def test_processes_share_one_download(cache: ShardCache, tmp_path: Path):
    slow = Fetch(tmp_path / "log", seconds=0.3)
    processes = [FORK.Process(target=read, args=(cache, slow, 1)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 3
    assert slow.fetched == [1]


def read_many(cache: ShardCache, fetch: Fetch, seed: int) -> None:
    for step in range(60):
        number = (step * (seed + 1) + seed) % 7
        assert read(cache, fetch, number) == bytes([number]) * SIZE
        assert len(list(cache.folder.glob("*.tar"))) <= cache.max_bytes // SIZE


def test_processes_that_crowd_each_other_out_all_read_the_right_bytes(cache: ShardCache, fetch: Fetch):
    processes = [FORK.Process(target=read_many, args=(cache, fetch, seed)) for seed in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]


def test_what_a_killed_process_left_does_not_take_room(cache: ShardCache, tmp_path: Path, fetch: Fetch):
    slow = Fetch(tmp_path / "slow log", seconds=60)
    process = FORK.Process(target=read, args=(cache, slow, 1))
    process.start()
    while not slow.fetched:
        sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    for number in (2, 3, 4):
        read(cache, fetch, number)
    assert not list(cache.folder.glob("*.part"))
    assert held(cache) == {b"\2", b"\3", b"\4"}
    assert read(cache, fetch, 1) == b"\1" * SIZE
