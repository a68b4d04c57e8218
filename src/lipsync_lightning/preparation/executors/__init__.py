"""Where the work on sources is done: here (`local`), on a Ray cluster, or as a SLURM array. All make the same parcels."""

import errno
import hashlib
import json
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Protocol

import cv2
import torch

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadConfig, ClipMismatch, MissingWeights, WrongWeights
from lipsync_lightning.preparation.ledger import FAILED, REJECTED, Row
from lipsync_lightning.preparation.one_source import SourceWork, Span, source_row
from lipsync_lightning.preparation.parcels import Parcel
from lipsync_lightning.preparation.recipe import Recipe
from lipsync_lightning.preparation.sources import Source
from lipsync_lightning.preparation.verdict import Rejected

# What every other source would meet as well, so that the run stops:
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_MET_BY_ALL = (
    MissingWeights,
    WrongWeights,
    BadConfig,
    ClipMismatch,
    torch.AcceleratorError,
)  # the last: a GPU that is lost

_SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, kw_only=True)
class SourceTask:
    """One source to be worked into its parcel."""

    source: Source
    parcel: Parcel
    kept: tuple[Span, ...] = ()  # clips of it that are in closed shards
    duplicate_of: str | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all tasks of one run share."""

    recipe: Recipe
    clip: ClipSpec

    @cached_property
    def versions(self) -> dict[str, str]:
        """Of the recipe's steps."""
        return self.recipe.versions(self.clip)

    def fingerprint(self, task: SourceTask) -> str:
        """Return the hash of everything that a parcel's content depends on, the source's own bytes excepted."""
        spans = [[span.person, span.first_frame, span.last_frame] for span in task.kept]
        files = {"video": None, "audio": task.source.audio is not None}  # which may have moved, and are the same ones
        content = [
            self.recipe.name,
            asdict(task.source) | files,
            task.duplicate_of,
            spans,
            self.versions,
            self.clip.as_dict(),
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def parcel_rows(self, task: SourceTask) -> list[Row] | None:
        """Return what became of a source, or None if that is not known yet."""
        return task.parcel.rows(self.fingerprint(task))

    def work(self, task: SourceTask) -> None:
        """Make the parcel of one source. Whatever goes wrong is written in it, a full disk and an interruption excepted."""
        if task.duplicate_of is not None:
            reason = f"the same bytes as {task.duplicate_of}"
            fault = Rejected(step="check", reason=reason)
            task.parcel.write([(source_row(task.source, REJECTED, fault, {}), None)], self.fingerprint(task))
            return
        try:
            task.parcel.write(
                SourceWork(task.source, self.recipe, self.clip, task.kept).outcomes(), self.fingerprint(task)
            )
        except Exception as error:
            if isinstance(error, _MET_BY_ALL) or getattr(error, "errno", None) in _NO_ROOM:
                raise
            self.note_failure(task, f"{type(error).__name__}: {error}")

    def note_failure(self, task: SourceTask, reason: str) -> None:
        """Write the parcel of a source on which work failed: not by its content, so that a later run tries it again."""
        fault = Rejected(step="work", reason=reason)
        task.parcel.write([(source_row(task.source, FAILED, fault, {}), None)], self.fingerprint(task))


class Executor(Protocol):
    """Works sources into parcels."""

    def work(self, job: Job, tasks: Sequence[SourceTask]) -> Iterator[SourceTask]:
        """Yield each task as soon as its parcel lies there, in any order; all of them, whatever becomes of single workers."""
        ...


def be_a_worker() -> None:
    """Let this process compute on one thread: there are as many workers as there are cores."""
    os.environ["OMP_NUM_THREADS"] = "1"
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


@contextmanager
def ended_after(max_hours: float) -> Iterator[None]:
    """End this whole process if what is done within takes longer than `max_hours`. For a worker's main thread, not for a run's own process.

    The signal keeps its default action, at which the system ends the process: a handler of Python's would wait for the C code, such as a
    decoder, to come back, and that is what hangs.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, max_hours * _SECONDS_PER_HOUR)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def causes_of_death(max_hours: float) -> str:
    """Return what may have ended a worker that left no word, for the ledger."""
    return f"out of memory, a fault in a decoder, or longer than {max_hours:g} hours"
