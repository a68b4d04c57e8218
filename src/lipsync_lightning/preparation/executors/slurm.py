"""`executor=slurm`: an array of SLURM jobs, by submitit. `pip install lipsync-lightning[slurm]`."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from lipsync_lightning.errors import BadConfig, StepFailed
from lipsync_lightning.preparation.executors import Job, SourceTask, be_a_worker, causes_of_death, ended_after

try:
    import submitit
    from submitit.core.utils import FailedJobError, UncompletedJobError
except ModuleNotFoundError as error:
    raise BadConfig(
        "executor=slurm needs submitit, which is not installed: pip install 'lipsync-lightning[slurm]'"
    ) from error

_AROUND_TRACEBACK = "-" * 22  # in submitit's message
_MOST_BARREN = 4  # jobs in a row that ended without a source worked on: it is not the sources


@dataclass
class _Submitted:
    """A job of submitit's, and what is known here of its share."""

    job: Any
    left: list[SourceTask]  # those whose parcels have not been seen, in the order the job works in
    has_worked: bool = False
    over_since_s: float | None = None  # of the monotonic clock: when it was first seen to be over

    def ask_whether_it_is_over(self) -> None:
        """Note when, and forget it of a job that its cluster has started again."""
        if not self.job.done():
            self.over_since_s = None
        elif self.over_since_s is None:
            self.over_since_s = time.monotonic()

    def newly_seen(self, job: Job) -> list[SourceTask]:
        """Return the next of its tasks whose parcels are there, which are left no longer."""
        seen = list(takewhile(lambda task: job.parcel_rows(task) is not None, self.left))
        self.left = self.left[len(seen) :]
        self.has_worked |= bool(seen)
        return seen


class SlurmExecutor:
    """Deals the sources out to an array of jobs that see the same file system, and waits for their parcels.

    A job that ends before its sources are done (time limit, node failure, a source that takes longer than `max_hours_per_source`) has the
    rest submitted again: the source it was working on is noted as failed when it ends twice there.
    """

    def __init__(
        self,
        *,
        folder: str,
        num_jobs: int,
        cluster: str,
        poll_seconds: float,
        settle_seconds: float,
        max_hours_per_source: float,
        parameters: dict[str, Any],
    ) -> None:
        """Args:
        folder: of submitit's logs; must be seen by all nodes.
        num_jobs: of the array; each works on one source at a time.
        cluster: `slurm`, or `local` for processes on this machine.
        poll_seconds: between looks at the folder of parcels.
        settle_seconds: how long parcels of a job that is over may take to show here: shared file systems cache what a folder holds.
        max_hours_per_source: until the job that works on one source is ended; `timeout_min` may end it before.
        parameters: submitit's own, such as timeout_min, slurm_partition, mem_gb, cpus_per_task.
        """
        self.folder = folder
        self.num_jobs = num_jobs
        self.cluster = cluster
        self.poll_seconds = poll_seconds
        self.settle_seconds = settle_seconds
        self.max_hours_per_source = max_hours_per_source
        self.parameters = dict(parameters)

    def work(self, job: Job, tasks: Sequence[SourceTask]) -> Iterator[SourceTask]:
        """Yield each task once its parcel lies there.

        Raises: BadConfig, if there is no such cluster here; StepFailed, if a job met what every other would meet too, or ended well
        without its parcels showing here.
        """
        submitter = self._submitter()
        shares = [share for share in (list(tasks[first :: self.num_jobs]) for first in range(self.num_jobs)) if share]
        with submitter.batch():
            running = [self._submit(submitter, job, share) for share in shares]
        try:
            yield from self._until_all_are_done(job, submitter, running)
        finally:
            for submitted in running:
                submitted.job.cancel(check=False)  # or it would go on after an interruption

    def _submitter(self) -> Any:
        try:
            submitter = submitit.AutoExecutor(folder=self.folder, cluster=self.cluster)
        except RuntimeError as error:
            raise BadConfig(
                f"no SLURM here ({error}); start this on a node that can submit jobs, or with executor.cluster=local"
            ) from error
        submitter.update_parameters(name="prepare", **self.parameters)
        return submitter

    def _submit(self, submitter: Any, job: Job, share: list[SourceTask]) -> _Submitted:
        return _Submitted(submitter.submit(work_all, job, share, self.max_hours_per_source), share)

    def _until_all_are_done(self, job: Job, submitter: Any, running: list[_Submitted]) -> Iterator[SourceTask]:
        ended_at: set[str] = set()  # sources at which a job has ended once
        barren = 0  # jobs in a row that ended without a parcel
        while running:
            time.sleep(self.poll_seconds)
            for submitted in list(running):
                submitted.ask_whether_it_is_over()  # first: what is done after this look is seen at the next
                yield from submitted.newly_seen(job)
                if self._may_show_more(submitted):
                    continue
                running.remove(submitted)
                if submitted.left:
                    barren = 0 if submitted.has_worked else barren + 1
                    self._require_a_fault_of_its_own(submitted, barren)
                    first = submitted.left[0]
                    if first.source.name in ended_at:
                        causes = causes_of_death(self.max_hours_per_source)
                        job.note_failure(first, f"its SLURM job ended, twice: time limit, {causes}")
                        yield submitted.left.pop(0)
                    ended_at.add(first.source.name)
                if submitted.left:
                    running.append(self._submit(submitter, job, submitted.left))

    def _may_show_more(self, submitted: _Submitted) -> bool:
        if submitted.over_since_s is None:
            return True
        return bool(submitted.left) and time.monotonic() - submitted.over_since_s < self.settle_seconds

    def _require_a_fault_of_its_own(self, submitted: _Submitted, barren: int) -> None:
        """Raises: StepFailed, if the job did not just end before its share was done.

        Either it met what every other would meet too, such as a full disk, or it ended well and its parcels are not to be seen.
        """
        log = f"its log lies in {submitted.job.paths.folder}"
        try:
            submitted.job.result()
        except FailedJobError as error:
            traceback = str(error).split(_AROUND_TRACEBACK)[1].strip().splitlines()
            raise StepFailed(f"a SLURM job failed: {traceback[-1]}; {log}") from error
        except (UncompletedJobError, TimeoutError) as error:
            if barren >= _MOST_BARREN:
                raise StepFailed(f"{barren} SLURM jobs ended in a row without any source worked on; {log}") from error
        else:
            raise StepFailed(
                f"{submitted.left[0].parcel.path}: the parcels of a SLURM job that ended well do not show here after "
                f"{self.settle_seconds:g} seconds; out= must be on a file system that all nodes share; {log}"
            )


def work_all(job: Job, tasks: Sequence[SourceTask], max_hours: float) -> None:
    """Work on the sources of one SLURM job, one after another, those with parcels left out; `max_hours` is for each."""
    be_a_worker()
    for task in tasks:
        if job.parcel_rows(task) is None:
            with ended_after(max_hours):
                job.work(task)
