"""Where shards are made: here (`local`), on a Ray cluster, or by an array of SLURM jobs. All give the same bytes."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from lipsync_lightning.preparation.shard_job import ShardJob, ShardTask


class Executor(Protocol):
    """Makes shards.

    A shard whose worker dies is made again with each of its sources in a process of its own, so that a source that
    kills its process is noted as failed and costs no other.
    """

    def map(self, job: ShardJob, tasks: Sequence[ShardTask]) -> Iterator[ShardTask]:
        """Yield each task once its shard is made, in any order; all of them, whatever becomes of single workers."""
        ...
