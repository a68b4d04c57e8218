"""`executor=ray`: a Ray cluster, a shard for each CPU. `pip install lipsync-lightning[ray]`."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lipsync_lightning.errors import BadConfig, LipSyncError, StepFailed
from lipsync_lightning.preparation.shard_job import ShardJob, ShardTask, use_one_thread

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ModuleNotFoundError as error:
    raise BadConfig("executor=ray needs Ray, which is not installed: pip install 'lipsync-lightning[ray]'") from error

_MOST_DEATHS = 4  # of workers over one shard


@dataclass(frozen=True, kw_only=True)
class RayExecutor:
    """Works on all CPUs of a Ray cluster whose nodes see the same file system, and have this package installed."""

    address: str | None  # of the cluster; None starts one of this machine's CPUs
    gpus_per_worker: float  # share of a GPU that each worker takes for the networks that score; 0 for the CPU
    max_hours_per_source: float  # then its worker is ended

    def map(self, job: ShardJob, tasks: Sequence[ShardTask]) -> Iterator[ShardTask]:
        """Yield each task once its shard is made. Raises: StepFailed, if workers keep dying over one shard."""
        is_ours = not ray.is_initialized()
        if is_ours:
            ray.init(address=self.address, log_to_driver=False, include_dashboard=False)
        try:
            job_on_cluster = ray.put(job)
            make = ray.remote(_make).options(num_cpus=1, num_gpus=self.gpus_per_worker, max_retries=0)
            shared = job_on_cluster, self.max_hours_per_source, str(Path.cwd())
            running = {make.remote(task, False, *shared): (task, 0) for task in tasks}  # and its workers' deaths
            while running:
                for work in ray.wait(list(running))[0]:
                    task, deaths = running.pop(work)
                    try:
                        ray.get(work)
                        yield task
                    except RayTaskError as error:  # such as missing weights, or a full disk
                        raise (error.cause if isinstance(error.cause, LipSyncError | OSError) else error) from None
                    except RayError as error:
                        if deaths + 1 == _MOST_DEATHS:
                            raise StepFailed(f"{_MOST_DEATHS} workers died over {task.name}: {error}") from error
                        running[make.remote(task, True, *shared)] = task, deaths + 1
        finally:
            if is_ours:
                ray.shutdown()


def _make(task: ShardTask, isolated: bool, job: ShardJob, max_hours: float, folder: str) -> None:
    os.chdir(folder)  # relative paths mean the same on every node
    use_one_thread()
    job.make(task, isolated=isolated, max_hours=max_hours)
