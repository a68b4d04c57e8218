"""`executor=local`: processes on this machine."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from lipsync_lightning.preparation.shard_job import ShardJob, ShardTask, worker_pool


@dataclass(frozen=True, kw_only=True)
class LocalExecutor:
    """Makes `num_workers` shards at a time, each in a process of its own."""

    num_workers: int  # 0 works in this process, which helps with a debugger
    max_hours_per_source: float  # then its process is ended; not with `num_workers=0`, whose process is the run's

    def map(self, job: ShardJob, tasks: Sequence[ShardTask]) -> Iterator[ShardTask]:
        """Yield each task once its shard is made."""
        if self.num_workers == 0:
            for task in tasks:
                job.make(task)
                yield task
            return
        threads = ThreadPoolExecutor(self.num_workers)
        try:
            made = {threads.submit(self._make, job, task): task for task in tasks}
            for future in as_completed(made):
                future.result()
                yield made[future]
        finally:
            threads.shutdown(cancel_futures=True)

    def _make(self, job: ShardJob, task: ShardTask) -> None:
        try:
            with worker_pool(1) as pool:
                pool.submit(job.make, task, max_hours=self.max_hours_per_source).result()
        except BrokenProcessPool:
            job.make(task, isolated=True, max_hours=self.max_hours_per_source)
