"""`executor=slurm`: an array of SLURM jobs, by submitit. `pip install lipsync-lightning[slurm]`."""

import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lipsync_lightning.errors import BadConfig, StepFailed
from lipsync_lightning.preparation.shard_job import ShardJob, ShardTask, use_one_thread

try:
    import submitit
    from submitit.core.utils import FailedJobError
except ModuleNotFoundError as error:
    told = "executor=slurm needs submitit, which is not installed: pip install 'lipsync-lightning[slurm]'"
    raise BadConfig(told) from error

_MOST_DEATHS = 4  # of jobs in a row that did not finish a shard


@dataclass
class _Share:
    """The shards that one job of the array makes, in this order."""

    job: Any
    left: list[ShardTask]  # those that have not been seen
    deaths: int  # of jobs since one of them was seen


@dataclass(frozen=True, kw_only=True)
class SlurmExecutor:
    """Deals the shards out to an array of jobs that see the same file system.

    A job that ends too early (time limit, node failure, a deadly source) has the rest of its shards submitted again.
    """

    folder: str  # of submitit's logs; must be seen by all nodes
    num_jobs: int  # of the array; each makes one shard at a time
    cluster: str  # `slurm`, or `local` for processes on this machine
    poll_seconds: float  # between looks at what is done
    max_hours_per_source: float  # then its job is ended; choose it well below `timeout_min`
    parameters: dict[str, Any]  # submitit's own: timeout_min, slurm_partition, mem_gb, cpus_per_task

    def map(self, job: ShardJob, tasks: Sequence[ShardTask]) -> Iterator[ShardTask]:
        """Yield each task once its shard is made.

        Raises: BadConfig, if there is no such cluster here; StepFailed, if a job met what every other would meet too,
        or jobs keep ending over one shard.
        """
        try:
            submitter = submitit.AutoExecutor(folder=self.folder, cluster=self.cluster)
        except RuntimeError as error:
            way_out = "start this on a node that can submit jobs, or with executor.cluster=local"
            raise BadConfig(f"no SLURM here ({error}); {way_out}") from error
        submitter.update_parameters(name="prepare", **self.parameters)
        limit = self.max_hours_per_source
        dealt = [list(tasks[first :: self.num_jobs]) for first in range(min(self.num_jobs, len(tasks)))]
        with submitter.batch():
            shares = [_Share(submitter.submit(_make_all, job, left, False, limit), left, 0) for left in dealt]
        try:
            while shares:
                time.sleep(self.poll_seconds)
                for share in list(shares):
                    is_over = share.job.done()  # asked first: what it has made until then is seen below
                    while share.left and job.is_done(share.left[0].name):
                        share.deaths = 0
                        yield share.left.pop(0)
                    if not is_over:
                        continue
                    error = share.job.exception()
                    if error is None:  # what does not show yet is on its way: file systems cache folders
                        yield from share.left
                        shares.remove(share)
                        continue
                    if isinstance(error, FailedJobError):  # it met what every other would meet too
                        traceback = str(error).split("-" * 22)[1].strip().splitlines()  # between lines of submitit's
                        told = f"a SLURM job failed: {traceback[-1]}; its log lies in {share.job.paths.folder}"
                        raise StepFailed(told) from error
                    share.deaths += 1
                    if share.deaths == _MOST_DEATHS:
                        told = f"{_MOST_DEATHS} SLURM jobs ended over {share.left[0].name}"
                        way_out = "raise executor.parameters.timeout_min, or lower executor.max_hours_per_source"
                        raise StepFailed(f"{told}; {way_out}; their logs lie in {share.job.paths.folder}")
                    share.job = submitter.submit(_make_all, job, share.left, True, limit)
        finally:
            for share in shares:
                share.job.cancel(check=False)  # or it would go on after an interruption


def _make_all(job: ShardJob, tasks: Sequence[ShardTask], isolate_first: bool, max_hours: float) -> None:
    # Shortly before the time limit: submitit would raise within a source's work, and that source would count as failed.
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    use_one_thread()
    for number, task in enumerate(tasks):
        if not job.is_done(task.name):
            job.make(task, isolated=isolate_first and number == 0, max_hours=max_hours)
