"""What becomes of sources that kill their workers. No process starts here: a pool of one worker is played by the test's own process."""

from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import StepFailed
from lipsync_lightning.preparation.executors import Job, SourceTask, local
from lipsync_lightning.preparation.executors.local import LocalExecutor
from lipsync_lightning.preparation.parcels import Parcel
from lipsync_lightning.preparation.sources import Source
from tiny_recipe import folder_recipe


class PlayedPool:
    """Does at once what it is given, and notes which worker it was; breaks for good, as a real pool does, at sources named deadly."""

    numbers = count()

    def __init__(self, job: Job) -> None:
        self.job = job
        self.worker = f"worker {next(self.numbers)}"
        self.is_broken = False

    def submit(self, _: Any, task: SourceTask, __: float) -> Future[None]:
        if self.is_broken:
            raise BrokenProcessPool
        future: Future[None] = Future()
        self.is_broken = task.source.name.startswith("deadly")
        if self.is_broken:
            future.set_exception(BrokenProcessPool())
        else:
            self.job.note_failure(task, self.worker)
            future.set_result(None)
        return future

    def shutdown(self, **_: Any) -> None:
        self.is_broken = True


@pytest.fixture(autouse=True)
def no_process_starts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local, "_pool", lambda _, job: PlayedPool(job))


@pytest.fixture(autouse=True)
def all_tasks_are_under_way_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local, "_IN_FLIGHT", 100)


def tasks_named(names: list[str], folder: Path) -> list[SourceTask]:
    return [
        SourceTask(source=Source(name=name, video=folder / name), parcel=Parcel(folder / f"{name}.tar"))
        for name in names
    ]


def reasons_of(names: list[str], folder: Path, clip: ClipSpec) -> dict[str, str]:
    """Return by source what was noted once one worker has been through all."""
    job = Job(recipe=folder_recipe(folder), clip=clip)
    executor = LocalExecutor(num_workers=1, max_hours_per_source=1)
    rows = {task.source.name: job.parcel_rows(task) for task in executor.work(job, tasks_named(names, folder))}
    return {name: str(of_source[0].reason) for name, of_source in rows.items() if of_source}


def test_three_sources_in_a_row_that_kill_their_workers_cost_no_other(tmp_path: Path, tiny_clip: ClipSpec):
    names = ["fine0", "deadly1", "deadly2", "deadly3", "fine4"]
    reasons = reasons_of(names, tmp_path, tiny_clip)
    assert sorted(reasons) == sorted(names)
    assert {name for name, reason in reasons.items() if "died, twice" in reason} == {"deadly1", "deadly2", "deadly3"}


def test_workers_that_die_before_any_source_was_worked_on_end_the_run(tmp_path: Path, tiny_clip: ClipSpec):
    with pytest.raises(StepFailed, match="3 workers died"):
        reasons_of(["deadly0", "deadly1", "deadly2", "deadly3"], tmp_path, tiny_clip)
    assert len(list(tmp_path.glob("deadly*.tar"))) == 3


def test_suspects_share_a_process_until_it_dies(tmp_path: Path, tiny_clip: ClipSpec, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(LocalExecutor, "_until_a_worker_dies", all_are_suspects)
    reasons = reasons_of(["deadly0", "fine1", "fine2", "deadly3", "fine4", "fine5"], tmp_path, tiny_clip)
    assert reasons["fine1"] == reasons["fine2"]
    assert reasons["fine4"] == reasons["fine5"] != reasons["fine1"]


def all_are_suspects(_: LocalExecutor, __: Job, waiting: Any, suspects: list[SourceTask]) -> Any:
    suspects += waiting
    return iter(())


def test_the_limit_does_not_end_the_process_of_the_run(
    tmp_path: Path, tiny_clip: ClipSpec, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(local, "ended_after", lambda _: pytest.fail("it would end the tests"))
    job = Job(recipe=folder_recipe(tmp_path), clip=tiny_clip)
    assert list(LocalExecutor(num_workers=0, max_hours_per_source=1).work(job, tasks_named(["gone"], tmp_path)))
