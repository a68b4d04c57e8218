"""What is believed of SLURM jobs that are over. No job runs here: each says of itself how it ended."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("submitit")
from submitit.core.utils import UncompletedJobError

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadConfig, StepFailed
from lipsync_lightning.preparation.executors import Job, SourceTask, slurm
from lipsync_lightning.preparation.executors.slurm import SlurmExecutor
from lipsync_lightning.preparation.parcels import Parcel
from lipsync_lightning.preparation.sources import Source
from tiny_recipe import folder_recipe

GOOD = "worked on by a job"
LATE_S = 0.5  # from when a job is over to when its parcels show


class Ended:
    """A job that is over. Its parcels, if there are any, show `LATE_S` later."""

    paths = SimpleNamespace(folder="logs")

    def __init__(self, job: Job, tasks: list[SourceTask]) -> None:
        self.job = job
        self.tasks = tasks
        self.shows_at = time.monotonic() + LATE_S

    def worked_on(self) -> list[SourceTask]:
        return self.tasks

    def done(self) -> bool:
        if time.monotonic() >= self.shows_at:
            for task in self.worked_on():
                if self.job.parcel_rows(task) is None:
                    self.job.note_failure(task, GOOD)
        return True

    def result(self) -> None: ...

    def cancel(self, check: bool) -> None: ...


class EndedUnseen(Ended):
    """Ended well, where none of its files are seen from here."""

    def worked_on(self) -> list[SourceTask]:
        return []


class Killed(EndedUnseen):
    def result(self) -> None:
        raise UncompletedJobError("no output")


class KilledAtItsLast(Killed):
    def worked_on(self) -> list[SourceTask]:
        return self.tasks[:-1]


class Submitter:
    """Stands in for submitit's: the first jobs are what `kinds` says, those submitted later what its last says."""

    def __init__(self, *kinds: type[Ended]) -> None:
        self.kinds = kinds
        self.num_submitted = 0

    def update_parameters(self, **_: Any) -> None: ...

    def batch(self) -> Any:
        return pytest.MonkeyPatch.context()  # any context will do

    def submit(self, _: Callable, job: Job, tasks: list[SourceTask], __: float) -> Ended:
        kind = self.kinds[min(self.num_submitted, len(self.kinds) - 1)]
        self.num_submitted += 1
        return kind(job, tasks)


@pytest.fixture
def tasks(tmp_path: Path) -> list[SourceTask]:
    sources = [Source(name=str(number), video=tmp_path / str(number)) for number in range(3)]
    return [SourceTask(source=source, parcel=Parcel(tmp_path / f"{source.name}.tar")) for source in sources]


@pytest.fixture
def job(tmp_path: Path, tiny_clip: ClipSpec) -> Job:
    return Job(recipe=folder_recipe(tmp_path), clip=tiny_clip)


@pytest.fixture
def work(job: Job, tasks: list[SourceTask], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Iterator[SourceTask]]:
    def start(submitter: Submitter, num_jobs: int = 1, settle_seconds: float = 20) -> Iterator[SourceTask]:
        monkeypatch.setattr(slurm.submitit, "AutoExecutor", lambda **_: submitter)
        executor = SlurmExecutor(
            folder="logs",
            num_jobs=num_jobs,
            cluster="slurm",
            poll_seconds=0.01,
            settle_seconds=settle_seconds,
            max_hours_per_source=1,
            parameters={},
        )
        return executor.work(job, tasks)

    return start


def reasons(job: Job, tasks: list[SourceTask]) -> list[str | None]:
    return [(job.parcel_rows(task) or [SimpleNamespace(reason=None)])[0].reason for task in tasks]


def test_parcels_that_show_late_are_believed(job: Job, tasks: list[SourceTask], work: Any):
    submitter = Submitter(Ended)
    assert list(work(submitter)) == tasks
    assert submitter.num_submitted == 1


def test_parcels_that_show_late_are_not_noted_as_failed(job: Job, tasks: list[SourceTask], work: Any):
    """A job has ended at the same source before, so that this one's end there would be the second."""
    list(work(Submitter(Killed, Ended), settle_seconds=2 * LATE_S))
    assert reasons(job, tasks) == [GOOD] * 3


def test_a_job_that_ended_well_unseen_stops_the_run_and_nothing_is_noted(job: Job, tasks: list[SourceTask], work: Any):
    submitter = Submitter(EndedUnseen)
    with pytest.raises(
        StepFailed, match=r"do not show here after 0.1 seconds; out= must be on a file system that all nodes share"
    ):
        list(work(submitter, settle_seconds=0.1))
    assert submitter.num_submitted == 1
    assert reasons(job, tasks) == [None] * 3


def test_waiting_for_the_parcels_of_one_job_holds_up_no_other(tasks: list[SourceTask], work: Any):
    begun = time.monotonic()
    assert next(work(Submitter(EndedUnseen, Ended), num_jobs=2)) == tasks[1]
    assert time.monotonic() - begun < 5


def test_a_source_at_which_jobs_end_twice_is_noted_and_no_other(job: Job, tasks: list[SourceTask], work: Any):
    submitter = Submitter(KilledAtItsLast, Killed)
    assert list(work(submitter, settle_seconds=2 * LATE_S)) == tasks
    assert submitter.num_submitted == 2
    assert reasons(job, tasks)[:2] == [GOOD] * 2
    assert "ended, twice: time limit, out of memory, a fault in a decoder, or longer than 1 hours" in str(
        reasons(job, tasks)[2]
    )


def test_jobs_that_end_without_any_parcel_stop_the_run_however_few_they_are(work: Any):
    submitter = Submitter(Killed)
    with pytest.raises(StepFailed, match="4 SLURM jobs ended in a row"):
        list(work(submitter, settle_seconds=0.05))
    assert submitter.num_submitted == 4


def test_where_there_is_no_slurm_that_is_said_in_one_sentence(
    job: Job, tasks: list[SourceTask], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("PATH", str(tmp_path))
    settings: dict[str, Any] = {
        "num_jobs": 1,
        "poll_seconds": 0.01,
        "settle_seconds": 1,
        "max_hours_per_source": 1,
        "parameters": {},
    }
    executor = SlurmExecutor(folder=str(tmp_path / "logs"), cluster="slurm", **settings)
    with pytest.raises(BadConfig, match=r"no SLURM here \(.*srun.*executor.cluster=local"):
        next(executor.work(job, tasks))
