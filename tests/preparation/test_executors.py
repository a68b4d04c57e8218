import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deadly_people import DeadlyPeople, SignalledPeople, WeightlessPeople
from lipsync_lightning.errors import LipSyncError, MissingWeights, StepFailed
from lipsync_lightning.preparation.executors.local import LocalExecutor
from lipsync_lightning.preparation.ledger import FAILED, SOURCE
from lipsync_lightning.preparation.shard_job import _ended_after
from tiny_media import sound_of, write_video
from tiny_recipe import prepared


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of 14 to 19 frames."""
    folder = tmp_path_factory.mktemp("raw")
    for index in range(6):
        write_video(folder / f"{index}.mp4", 14 + index, sound_of(14 + index))
    return folder


@pytest.fixture(autouse=True)
def workers_find_this_folder(monkeypatch: pytest.MonkeyPatch):
    """Processes that others start have not the module path of pytest."""
    here = str(Path(__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])))


@pytest.fixture(params=["local", "slurm", pytest.param("ray", marks=pytest.mark.slow)])
def executor(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")
        from lipsync_lightning.preparation.executors.ray import RayExecutor

        return RayExecutor(address=None, gpus_per_worker=0, max_hours_per_source=1)
    if request.param == "slurm":  # submitit's own local jobs stand in: the same pickled work in processes of their own
        pytest.importorskip("submitit")
        from lipsync_lightning.preparation.executors.slurm import SlurmExecutor

        limits: Any = {"num_jobs": 1, "poll_seconds": 0.2, "max_hours_per_source": 1, "parameters": {"timeout_min": 5}}
        return SlurmExecutor(folder=str(tmp_path / "slurm"), cluster="local", **limits)
    return LocalExecutor(num_workers=2, max_hours_per_source=3 / 3600)


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """Ray with two CPUs on this machine, for all tests that ask for it."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_a_deadly_or_endless_source_fails_alone_and_all_others_have_the_same_bytes_from_every_executor(
    source: Path, tmp_path: Path, executor: Any
):
    fine = prepared(source, tmp_path / "fine", sources_per_shard=2)
    endless = "1.mp4" if isinstance(executor, LocalExecutor) else ""
    failed = {"3.mp4", endless} - {""}
    people = DeadlyPeople(deadly="3.mp4", endless=endless)
    rows = prepared(source, tmp_path / "out", sources_per_shard=2, executor=executor, people=people)
    sources = {row.source: row for row in rows if row.kind == SOURCE}
    assert {name for name, row in sources.items() if row.verdict == FAILED} == failed
    assert all("worked on it died: out of memory" in str(sources[name].reason) for name in failed)
    assert [row for row in rows if row.source not in failed] == [row for row in fine if row.source not in failed]
    touched = {sources[name].shard for name in failed}
    for shard in {row.shard for row in rows} - touched:
        for file in (f"{shard}.tar", f"{shard}.json", f"ledger/{shard.replace('/', '-')}.parquet"):
            assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "fine" / file).read_bytes(), file


@pytest.mark.parametrize("executor", ["slurm"], indirect=True)
def test_a_job_at_its_time_limit_is_no_fault_of_the_source_it_worked_on(source: Path, tmp_path: Path, executor: Any):
    people = SignalledPeople(received=str(tmp_path / "received"))
    rows = prepared(source, tmp_path / "out", sources_per_shard=2, executor=executor, people=people)
    assert (tmp_path / "received").exists()
    assert rows == prepared(source, tmp_path / "fine", sources_per_shard=2)


def test_what_every_source_would_meet_ends_the_run(source: Path, tmp_path: Path, executor: Any):
    error: type[LipSyncError] = StepFailed if "Slurm" in type(executor).__name__ else MissingWeights
    with pytest.raises(error, match="fetch it"):
        prepared(source, tmp_path / "out", sources_per_shard=2, executor=executor, people=WeightlessPeople())
    assert not list((tmp_path / "out" / "ledger").glob("*"))


def test_the_limit_is_for_one_source_and_ends_a_process_that_hangs():
    def work() -> None:
        for seconds in (0.3, 0.3, 0.3, 60):
            with _ended_after(0.8 / 3600):
                time.sleep(seconds)
            os.write(writing, b".")

    reading, writing = os.pipe()
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert (os.read(reading, 9), process.exitcode) == (b"...", -signal.SIGALRM)


WORK = """
import time
from pathlib import Path
from lipsync_lightning.preparation.shard_job import worker_pool

def work():
    Path("started").touch()
    time.sleep(600)

if __name__ == "__main__":
    worker_pool(1).submit(work).result()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path):
    (tmp_path / "script.py").write_text(WORK)
    parent = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path)
    until((tmp_path / "started").exists)
    children = [path.read_text().split() for path in Path(f"/proc/{parent.pid}/task").glob("*/children")]
    workers = [Path(f"/proc/{pid}/stat") for pids in children for pid in pids]
    assert workers
    parent.kill()
    parent.wait()
    until(lambda: not any(path.exists() and ") Z " not in path.read_text() for path in workers))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
