"""What becomes of sources that kill their workers. Those are forked here, which takes no time; the executor spawns them."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import StepFailed
from lipsync_lightning.preparation.executors import Job, SourceTask, local
from lipsync_lightning.preparation.executors.local import LocalExecutor
from lipsync_lightning.preparation.parcels import Parcel
from lipsync_lightning.preparation.sources import Source
from tiny_media import folder_recipe


@pytest.fixture(autouse=True)
def workers_start_at_once(monkeypatch: pytest.MonkeyPatch):
    forking = multiprocessing.get_context("fork")
    monkeypatch.setattr(local.multiprocessing, "get_context", lambda _: forking)


@pytest.fixture(autouse=True)
def all_tasks_are_under_way_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local, "_IN_FLIGHT", 100)


class TellingJob(Job):
    """Notes which process has worked on a source; those named deadly kill it."""

    def work(self, task: SourceTask) -> None:
        if task.source.name.startswith("deadly"):
            os.kill(os.getpid(), signal.SIGKILL)
        self.note_failure(task, str(os.getpid()))


def tasks_named(names: list[str], folder: Path) -> list[SourceTask]:
    return [SourceTask(source=Source(name=name, video=folder / name), parcel=Parcel(folder / f"{name}.tar")) for name in names]


def reasons_of(names: list[str], folder: Path, clip: ClipSpec) -> dict[str, str]:
    """Return by source what was noted once one worker has been through all."""
    job = TellingJob(recipe=folder_recipe(folder), clip=clip)
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
    assert not (tmp_path / "deadly3.tar").exists()


def test_suspects_share_a_process_until_it_dies(tmp_path: Path, tiny_clip: ClipSpec):
    reasons = reasons_of(["deadly0", "fine1", "fine2", "deadly3", "fine4", "fine5"], tmp_path, tiny_clip)
    assert reasons["fine1"] == reasons["fine2"]
    assert reasons["fine4"] == reasons["fine5"] != reasons["fine1"]


def test_the_limit_does_not_end_the_process_of_the_run(tmp_path: Path, tiny_clip: ClipSpec):
    class SlowJob(Job):
        def work(self, task: SourceTask) -> None:
            time.sleep(0.3)

    def run() -> None:
        job = SlowJob(recipe=folder_recipe(tmp_path), clip=tiny_clip)
        list(LocalExecutor(num_workers=0, max_hours_per_source=0.1 / 3600).work(job, tasks_named(["slow"], tmp_path)))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode == 0
