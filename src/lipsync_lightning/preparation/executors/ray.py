"""`executor=ray`: a Ray cluster. Sources are tasks of one CPU each, networks that judge are actors.

pip install lipsync-lightning[ray]
"""

import os
import random
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from lipsync_lightning.errors import BadConfig, LipSyncError
from lipsync_lightning.preparation.executors import Job, SourceTask, be_a_worker, causes_of_death, ended_after

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ModuleNotFoundError as error:
    raise BadConfig("executor=ray needs Ray, which is not installed: pip install 'lipsync-lightning[ray]'") from error

_IN_FLIGHT = 2  # tasks handed out per CPU of the cluster


class RayExecutor:
    """Works on all CPUs of a Ray cluster whose nodes see the same file system, and have this package installed.

    What was under way on a node that dies is done again elsewhere; a source that keeps killing its worker,
    or keeps it longer than `max_hours_per_source`, is noted as failed.
    """

    def __init__(
        self,
        *,
        address: str | None,
        num_judges: int,
        gpus_per_judge: float,
        max_retries: int,
        max_hours_per_source: float,
    ) -> None:
        """Args:
        address: of the cluster; None starts one of this machine's CPUs.
        num_judges: actors for each judging network.
        gpus_per_judge: share of a GPU that each of them takes; 0 for the CPU.
        max_retries: how often a source is tried again whose worker died.
        max_hours_per_source: until the process that works on one source is ended, and counts as died.
        """
        self.address = address
        self.num_judges = num_judges
        self.gpus_per_judge = gpus_per_judge
        self.max_retries = max_retries
        self.max_hours_per_source = max_hours_per_source

    def work(self, job: Job, tasks: Sequence[SourceTask]) -> Iterator[SourceTask]:
        """Yield each task as soon as its parcel lies there."""
        started = not ray.is_initialized()
        if started:
            ray.init(address=self.address, log_to_driver=False, include_dashboard=False)
        try:
            yield from self._work_on(job, tasks)
        finally:
            if started:
                ray.shutdown()

    def _work_on(self, job: Job, tasks: Sequence[SourceTask]) -> Iterator[SourceTask]:
        job_on_cluster = ray.put(self._with_actors(job))
        work = ray.remote(_work).options(num_cpus=1, max_retries=self.max_retries)
        waiting = iter(tasks)
        running: dict[Any, SourceTask] = {}
        while True:
            num_cpus = max(
                1, int(ray.cluster_resources().get("CPU", 0))
            )  # none while the last node with some is being replaced
            room = _IN_FLIGHT * num_cpus - len(running)
            arguments = str(Path.cwd()), self.max_hours_per_source
            running |= {work.remote(job_on_cluster, task, *arguments): task for task in islice(waiting, max(0, room))}
            if not running:
                return
            for done in ray.wait(list(running))[0]:
                task = running.pop(done)
                try:
                    ray.get(done)
                except RayTaskError as error:  # such as missing weights, or a full disk
                    raise (error.cause if isinstance(error.cause, LipSyncError | OSError) else error) from None
                except RayError as error:
                    causes = causes_of_death(self.max_hours_per_source)
                    job.note_failure(task, f"its worker died: {type(error).__name__}; {causes}")
                yield task

    def _with_actors(self, job: Job) -> Job:
        """Return the job with judges that ask actors."""
        steps = {"sync": job.recipe.sync, "quality": job.recipe.quality}
        judging = {name: self._asking_actors(step) for name, step in steps.items() if hasattr(step, "judge")}
        return replace(job, recipe=replace(job.recipe, **judging))

    def _asking_actors(self, step: Any) -> Any:
        actor = ray.remote(_JudgeActor).options(
            num_gpus=self.gpus_per_judge, num_cpus=0, max_restarts=-1, max_task_retries=-1
        )
        asking = copy(step)
        asking.judge = JudgeOnCluster(
            step.judge.version, [actor.remote(step.judge, str(Path.cwd())) for _ in range(self.num_judges)]
        )
        return asking


class JudgeOnCluster:
    """Judges as the network in some actors does, one of them at random: workers do not know of each other."""

    def __init__(self, version: str, actors: Sequence[Any]) -> None:
        self.version = version  # the judge's own: it is part of the step's
        self._actors = actors

    def __call__(self, *arguments: Any) -> Any:
        """Return what the judge does. Raises: what the judge does, with its own message: it goes into the ledger."""
        actor = random.SystemRandom().choice(self._actors)  # any other generator would be seeded alike in all workers
        try:
            return ray.get(actor.judge.remote(*arguments))
        except RayTaskError as error:
            raise error.cause from None


class _JudgeActor:
    """Holds one judge and its network."""

    def __init__(self, judge: Any, folder: str) -> None:
        os.chdir(folder)  # relative paths mean the same on every node
        self._judge = judge

    def judge(self, *arguments: Any) -> Any:
        return self._judge(*arguments)


def _work(job: Job, task: SourceTask, folder: str, max_hours: float) -> None:
    os.chdir(folder)
    be_a_worker()
    with ended_after(max_hours):
        job.work(task)
