"""`executor=local`: processes on this machine."""

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice

from lipsync_lightning.errors import StepFailed
from lipsync_lightning.preparation.executors import Job, SourceTask, be_a_worker, causes_of_death, ended_after

_IN_FLIGHT = 2  # tasks handed out per worker, so that millions need not be held twice

_MOST_DEATHS = 3  # of workers with a task each, before anything was worked on: it is not the sources

_job: Job | None = None  # of this worker process: sent once, with networks loaded once


class LocalExecutor:
    """Works in `num_workers` processes, one core each; 0 works in this one, which helps with a debugger.

    A source that kills its worker (a fault in a decoder, memory) or keeps it longer than `max_hours_per_source` is found by trying those
    that were under way one by one, and is noted as failed; all others are worked on.
    """

    def __init__(self, *, num_workers: int, max_hours_per_source: float) -> None:
        """Args:
        num_workers: processes.
        max_hours_per_source: until the process that works on one source is ended. Not with `num_workers=0`, whose process is the run's.
        """
        self.num_workers = num_workers
        self.max_hours_per_source = max_hours_per_source

    def work(self, job: Job, tasks: Sequence[SourceTask]) -> Iterator[SourceTask]:
        """Yield each task as soon as its parcel lies there.

        Raises: StepFailed, if workers die before any source was worked on.
        """
        if self.num_workers == 0:
            yield from _work_here(job, tasks)
            return
        waiting = iter(tasks)
        num_done = num_deaths = 0
        while True:
            suspects: list[SourceTask] = []
            for task in self._until_a_worker_dies(job, waiting, suspects):
                num_done += 1
                yield task
            if not suspects:
                return
            for task, has_died in self._one_by_one(job, suspects):
                num_deaths += has_died
                num_done += not has_died
                yield task
                if num_deaths >= _MOST_DEATHS and not num_done:
                    raise StepFailed(
                        f"{num_deaths} workers died and none worked on a source; executor.num_workers=0 shows why"
                    )

    def _until_a_worker_dies(
        self, job: Job, waiting: Iterator[SourceTask], suspects: list[SourceTask]
    ) -> Iterator[SourceTask]:
        """Work on tasks until there are none, or a worker dies: then `suspects` holds those that were under way."""
        pool = _pool(self.num_workers, job)
        running: dict[Future, SourceTask] = {}
        try:
            while True:
                for task in islice(waiting, self.num_workers * _IN_FLIGHT - len(running)):
                    suspects.append(task)  # in case this very call finds the pool broken
                    future = pool.submit(_work, task, self.max_hours_per_source)
                    running[future] = suspects.pop()
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    future.result()
                    yield running.pop(future)
        except BrokenProcessPool:
            suspects += running.values()
        finally:
            pool.shutdown(cancel_futures=True)  # what stopped one task, such as a full disk, stops the rest

    def _one_by_one(self, job: Job, suspects: Sequence[SourceTask]) -> Iterator[tuple[SourceTask, bool]]:
        """Yield each task, and whether the process that worked on it alone died."""
        pool = _pool(1, job)
        try:
            for task in suspects:
                has_died = job.parcel_rows(task) is None and self._dies_at(task, pool)
                if has_died:
                    causes = causes_of_death(self.max_hours_per_source)
                    job.note_failure(task, f"the process that worked on it died, twice: {causes}")
                    pool.shutdown()
                    pool = _pool(1, job)
                yield task, has_died
        finally:
            pool.shutdown(cancel_futures=True)

    def _dies_at(self, task: SourceTask, pool: ProcessPoolExecutor) -> bool:
        try:
            pool.submit(_work, task, self.max_hours_per_source).result()
        except BrokenProcessPool:
            return True
        return False


def _work_here(job: Job, tasks: Sequence[SourceTask]) -> Iterator[SourceTask]:
    for task in tasks:
        job.work(task)
        yield task


def _pool(num_workers: int, job: Job) -> ProcessPoolExecutor:
    # Spawned, not forked: a forked child inherits the locks of the parent's threads.
    return ProcessPoolExecutor(
        num_workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(job,)
    )


def _begin(job: Job) -> None:
    global _job
    _job = job
    be_a_worker()
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    """A worker waits for its next task on a pipe of which it holds both ends, so it would outlive a parent that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(task: SourceTask, max_hours: float) -> None:
    assert _job is not None
    with ended_after(max_hours):
        _job.work(task)
