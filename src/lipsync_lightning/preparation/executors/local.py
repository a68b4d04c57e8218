"""`executor=local`: processes on this machine."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from lipsync_lightning.errors import StepFailed
from lipsync_lightning.preparation.shard_job import ShardJob, ShardTask, worker_pool


@dataclass(frozen=True, kw_only=True)
class LocalExecutor:
    """Works in `num_workers` processes, one core and one shard each."""

    num_workers: int  # 0 works in this process, which helps with a debugger
    max_hours_per_source: float  # then its process is ended; not with `num_workers=0`, whose process is the run's

    def map(self, job: ShardJob, tasks: Sequence[ShardTask]) -> Iterator[ShardTask]:
        """Yield each task once its shard is made. Raises: StepFailed, if workers die, and not over a source."""
        if self.num_workers == 0:
            for task in tasks:
                job.make(task)
                yield task
            return
        waiting = deque((task, False) for task in tasks)  # and whether a worker died over it
        while waiting:
            running: dict[Future[None], tuple[ShardTask, bool]] = {}
            pool = worker_pool(self.num_workers)
            try:
                while waiting or running:
                    while waiting and len(running) < self.num_workers:
                        task, isolated = waiting[0]
                        future = pool.submit(job.make, task, isolated=isolated, max_hours=self.max_hours_per_source)
                        running[future] = waiting.popleft()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        future.result()
                        yield running.pop(future)[0]
            except BrokenProcessPool as error:  # which breaks all that were running
                if all(isolated for _, isolated in running.values()):
                    raise StepFailed("workers die, and not over a source; executor.num_workers=0 shows why") from error
                waiting.extendleft((task, True) for task, _ in reversed(running.values()))
            finally:
                pool.shutdown(cancel_futures=True)
