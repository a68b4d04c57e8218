"""`executor=slurm`: an array of SLURM jobs, by submitit. `pip install lipsync-lightning[slurm]`."""

import time
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

from lipsync_lightning.errors import BadConfig, StepFailed
from lipsync_lightning.preparation.executors import Job, SourceTask, be_a_worker

try:
    import submitit
    from submitit.core.utils import FailedJobError, UncompletedJobError
except ModuleNotFoundError as error:
    raise BadConfig("executor=slurm needs submitit, which is not installed: pip install 'lipsync-lightning[slurm]'") from error

_AROUND_TRACEBACK = "-" * 22  # in submitit's message
_MOST_BARREN = 4  # jobs in a row that ended without a source worked on: it is not the sources

Submitted = tuple[Any, Sequence[SourceTask]]  # a job of submitit's and its share


class SlurmExecutor:
    """Deals the sources out to an array of jobs that see the same file system, and waits for their parcels.

    A job that ends before its sources are done (time limit, node failure) has the rest submitted again: the source it was working on is
    noted as failed when it ends twice there.
    """

    def __init__(self, *, folder: str, num_jobs: int, cluster: str, poll_seconds: float, parameters: dict[str, Any]) -> None:
        """Args:
        folder: of submitit's logs; must be seen by all nodes.
        num_jobs: of the array; each works on one source at a time.
        cluster: `slurm`, or `local` for processes on this machine.
        poll_seconds: between looks at the folder of parcels.
        parameters: submitit's own, such as timeout_min, slurm_partition, mem_gb, cpus_per_task.
        """
        self.folder = folder
        self.num_jobs = num_jobs
        self.cluster = cluster
        self.poll_seconds = poll_seconds
        self.parameters = dict(parameters)

    def work(self, job: Job, tasks: Sequence[SourceTask]) -> Iterator[SourceTask]:
        """Yield each task once its parcel lies there."""
        submitter = submitit.AutoExecutor(folder=self.folder, cluster=self.cluster)
        submitter.update_parameters(name="prepare", **self.parameters)
        shares = [share for share in (list(tasks[first :: self.num_jobs]) for first in range(self.num_jobs)) if share]
        with submitter.batch():
            running: list[Submitted] = [(submitter.submit(work_all, job, share), share) for share in shares]
        try:
            yield from self._until_all_are_done(job, submitter, running)
        finally:
            for submitted, _ in running:
                submitted.cancel(check=False)  # or it would go on after an interruption

    def _until_all_are_done(self, job: Job, submitter: Any, running: list[Submitted]) -> Iterator[SourceTask]:
        ended_at: set[str] = set()  # sources at which a job has ended once
        barren = 0  # jobs in a row that ended without a parcel
        while running:
            time.sleep(self.poll_seconds)
            for submitted, share in list(running):
                is_over = submitted.done()  # asked first: what is done after this look is seen at the next
                known = list(takewhile(lambda task: job.parcel_rows(task) is not None, share))  # a job works in this order
                yield from known
                left = share[len(known) :]
                running.remove((submitted, share))
                if not is_over:
                    running.append((submitted, left))
                elif left:
                    barren = 0 if known else barren + 1
                    _require_no_fault_of_all(submitted, barren)
                    if left[0].source.name in ended_at:
                        job.note_failure(left[0], "its SLURM job ended, twice: time limit, memory, or a fault in a decoder")
                    ended_at.add(left[0].source.name)
                    running.append((submitter.submit(work_all, job, left), left))


def work_all(job: Job, tasks: Sequence[SourceTask]) -> None:
    """Work on the sources of one SLURM job, one after another, those with parcels left out."""
    be_a_worker()
    for task in tasks:
        if job.parcel_rows(task) is None:
            job.work(task)


def _require_no_fault_of_all(submitted: Any, barren: int) -> None:
    """Raises: StepFailed, if the job did not just end but met what every other would meet too, such as a full disk."""
    log = f"its log lies in {submitted.paths.folder}"
    try:
        submitted.result()
    except FailedJobError as error:
        traceback = str(error).split(_AROUND_TRACEBACK)[1].strip().splitlines()
        raise StepFailed(f"a SLURM job failed: {traceback[-1]}; {log}") from error
    except (UncompletedJobError, TimeoutError) as error:
        if barren >= _MOST_BARREN:
            raise StepFailed(f"{barren} SLURM jobs ended in a row without any source worked on; {log}") from error
