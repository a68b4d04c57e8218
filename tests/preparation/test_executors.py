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
from preparation.executors.hanging_judge import DeadlyOrHangingJudge, hang

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import MissingWeights, StepFailed
from lipsync_lightning.preparation.executors import ended_after
from lipsync_lightning.preparation.executors.local import LocalExecutor
from lipsync_lightning.preparation.filters.sync import SyncFilter
from lipsync_lightning.preparation.ledger import FAILED, KEPT, SOURCE, Row, read_ledger
from lipsync_lightning.preparation.runner import prepare
from simple_judges import DeadlyJudge, FailingJudge, SteadyJudge, WeightlessJudge
from tiny_media import sound_of, write_video
from tiny_recipe import folder_recipe

NUM_SOURCES = 6


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of 14 to 19 frames."""
    folder = tmp_path_factory.mktemp("raw")
    for index in range(NUM_SOURCES):
        write_video(folder / f"{index}.mp4", 14 + index, sound_of(14 + index))
    return folder


@pytest.fixture(autouse=True)
def workers_find_the_judges(monkeypatch: pytest.MonkeyPatch):
    """Processes that others start have not the module path of pytest."""
    here = str(Path(__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])))


def prepared_by(executor: Any, source: Path, out: Path, clip: ClipSpec, judge: Any) -> list[Row]:
    recipe = folder_recipe(source, sync=SyncFilter(judge=judge, clip=clip, min_confidence=3, max_offset=6))
    prepare(recipe, clip, out, sources_per_shard=2, executor=executor)
    return list(read_ledger(out))


def made(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for folder in ("train", "ledger")
        for path in (out / folder).rglob("*.*")
    }


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory, tiny_clip_64: ClipSpec) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("expected") / "out"
    prepared_by(LocalExecutor(num_workers=0, max_hours_per_source=1), source, out, tiny_clip_64, SteadyJudge())
    return made(out)


@pytest.fixture(scope="module")
def tiny_clip_64() -> ClipSpec:
    return ClipSpec(num_frames=5, fps=25, resolution=64, sample_rate_hz=16000, mel_hz=80, num_mels=80)


def verdicts(rows: list[Row]) -> dict[str, str]:
    return {row.source: row.verdict for row in rows if row.kind == SOURCE}


def test_sources_that_kill_their_worker_or_never_end_are_noted_as_failed_and_cost_no_other(
    source: Path, tmp_path: Path, tiny_clip_64: ClipSpec
):
    executor = LocalExecutor(num_workers=2, max_hours_per_source=5 / 3600)
    rows = prepared_by(executor, source, tmp_path, tiny_clip_64, DeadlyOrHangingJudge())
    assert verdicts(rows) == {f"{index}.mp4": FAILED if index in (1, 3) else KEPT for index in range(NUM_SOURCES)}
    reasons = [str(row.reason) for row in rows if row.verdict == FAILED]
    assert len(reasons) == 2
    assert all("died, twice" in reason and "longer than 0.00138889 hours" in reason for reason in reasons)


def exit_code_of(work: Callable[[], None]) -> int | None:
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    return process.exitcode


def test_the_limit_ends_a_process_that_hangs_in_c_code():
    def never_end() -> None:
        with ended_after(0.2 / 3600):
            hang()

    assert exit_code_of(never_end) == -signal.SIGALRM


def test_the_limit_is_for_one_source_and_not_for_all():
    def take_long_together() -> None:
        for _ in range(3):
            with ended_after(0.6 / 3600):
                time.sleep(0.3)
        time.sleep(0.6)

    assert exit_code_of(take_long_together) == 0


def test_a_source_that_failed_is_tried_again_by_the_next_run(
    source: Path, tmp_path: Path, tiny_clip_64: ClipSpec, expected: dict[str, bytes]
):
    rows = prepared_by(
        LocalExecutor(num_workers=0, max_hours_per_source=1), source, tmp_path, tiny_clip_64, FailingJudge()
    )
    assert [name for name, verdict in verdicts(rows).items() if verdict == FAILED] == ["3.mp4"]
    rows = prepared_by(
        LocalExecutor(num_workers=0, max_hours_per_source=1), source, tmp_path, tiny_clip_64, SteadyJudge()
    )
    assert set(verdicts(rows).values()) == {KEPT}
    assert {name for name, data in made(tmp_path).items() if expected.get(name) == data} >= {
        "train/000000.tar",
        "train/000002.tar",
    }


def test_what_every_source_would_meet_ends_the_run_at_once(source: Path, tmp_path: Path, tiny_clip_64: ClipSpec):
    with pytest.raises(MissingWeights, match="fetch it"):
        prepared_by(
            LocalExecutor(num_workers=2, max_hours_per_source=1), source, tmp_path, tiny_clip_64, WeightlessJudge()
        )
    assert not list((tmp_path / "ledger").glob("*"))


WORK = """
import sys, time
from pathlib import Path
from lipsync_lightning.preparation.executors import Job, SourceTask
from lipsync_lightning.preparation.executors.local import LocalExecutor

class Slow(Job):
    def work(self, task):
        Path("started").touch()
        time.sleep(600)

if __name__ == "__main__":
    list(LocalExecutor(num_workers=1, max_hours_per_source=1).work(Slow(recipe=None, clip=None), [SourceTask(source=None, parcel=None)]))
"""


def children_of(pid: int) -> list[int]:
    return [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path):
    (tmp_path / "script.py").write_text(WORK)
    parent = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path)
    until(lambda: (tmp_path / "started").exists())
    workers = children_of(parent.pid)
    assert workers
    parent.kill()
    parent.wait()
    until(lambda: not any(is_running(pid) for pid in workers))


def is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def slurm_here(folder: Path, num_jobs: int = 2) -> Any:
    submitit = pytest.importorskip("submitit")
    assert submitit
    from lipsync_lightning.preparation.executors.slurm import SlurmExecutor

    return SlurmExecutor(
        folder=str(folder / "slurm"),
        num_jobs=num_jobs,
        cluster="local",
        poll_seconds=0.5,
        settle_seconds=1,
        max_hours_per_source=1,
        parameters={"timeout_min": 5},
    )


def test_the_same_bytes_come_out_of_a_slurm_array(
    source: Path, tmp_path: Path, tiny_clip_64: ClipSpec, expected: dict[str, bytes]
):
    """Submitit's own local jobs stand in for SLURM's: the same pickled work in processes of their own."""
    prepared_by(slurm_here(tmp_path), source, tmp_path / "out", tiny_clip_64, SteadyJudge())
    assert made(tmp_path / "out") == expected


def test_a_slurm_job_that_dies_costs_the_source_it_dies_at_and_no_other(
    source: Path, tmp_path: Path, tiny_clip_64: ClipSpec
):
    rows = prepared_by(slurm_here(tmp_path, num_jobs=1), source, tmp_path / "out", tiny_clip_64, DeadlyJudge())
    assert verdicts(rows) == {f"{index}.mp4": FAILED if index == 3 else KEPT for index in range(NUM_SOURCES)}


def test_what_every_slurm_job_would_meet_ends_the_run(source: Path, tmp_path: Path, tiny_clip_64: ClipSpec):
    with pytest.raises(StepFailed, match=r"fetch it.*its log lies in"):
        prepared_by(slurm_here(tmp_path), source, tmp_path / "out", tiny_clip_64, WeightlessJudge())


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A Ray cluster of a head without CPUs and two nodes of one CPU each, all of them processes of this machine."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with_nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [with_nodes.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=with_nodes.address, log_to_driver=False)
    yield with_nodes, nodes
    ray.shutdown()
    with_nodes.shutdown()


@pytest.mark.slow
def test_the_same_bytes_come_out_of_a_ray_cluster_of_which_a_node_is_killed(
    source: Path, tmp_path: Path, tiny_clip_64: ClipSpec, expected: dict[str, bytes], cluster: Any
):
    from lipsync_lightning.preparation.executors.ray import RayExecutor

    class KillsANode(RayExecutor):
        def work(self, job: Any, tasks: Any) -> Iterator[Any]:
            for number, task in enumerate(super().work(job, tasks)):
                if number == 1:
                    cluster[0].remove_node(cluster[1][0], allow_graceful=False)
                yield task

    executor = KillsANode(address=None, num_judges=2, gpus_per_judge=0, max_retries=2, max_hours_per_source=1)
    rows = prepared_by(executor, source, tmp_path / "out", tiny_clip_64, SteadyJudge())
    assert set(verdicts(rows).values()) == {KEPT}
    assert made(tmp_path / "out") == expected
