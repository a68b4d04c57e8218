"""The unit of work of preparation: one shard, made of its sources from scratch, whole or not at all."""

import errno
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import cv2
import torch

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadConfig, BrokenShard, ClipMismatch, MissingWeights, WrongWeights
from lipsync_lightning.preparation.clips import Outcome, clips_of_source
from lipsync_lightning.preparation.ledger import FAILED, REJECTED, SOURCE, Row, piece_path, read_piece, write_piece
from lipsync_lightning.preparation.recipe import Recipe
from lipsync_lightning.preparation.sources import Source
from lipsync_lightning.shards.format import FinishedClip, is_whole, sidecar_path, write_shard

# What every other source would meet as well, so that the run stops; the last of them is a GPU that is lost.
_STOPS_THE_RUN = (MissingWeights, WrongWeights, BadConfig, ClipMismatch, torch.AcceleratorError)
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class PlannedSource(NamedTuple):
    """One source, and what was found when it was planned."""

    source: Source
    sha256: str | None  # of its file; None: it could not be read
    num_bytes: int | None
    fault: str | None  # for which it is rejected without a look at it


class ShardTask(NamedTuple):
    """One shard to be made."""

    name: str  # `<split>/<number>`
    sources: tuple[PlannedSource, ...]


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """What all shards of one run share. It travels to other processes."""

    recipe: Recipe
    clip: ClipSpec
    out: Path

    def is_done(self, name: str) -> bool:
        """Return whether a shard's piece of the ledger is there, and the shard itself, if it has clips, is whole."""
        try:
            rows = read_piece(piece_path(self.out, name))
        except BrokenShard:  # or missing
            return False
        return not any(row.is_kept_clip for row in rows) or is_whole(self.out / f"{name}.tar")

    def make(self, task: ShardTask, *, isolated: bool = False, max_hours: float | None = None) -> None:
        """Write a shard, its sidecar, and last its piece of the ledger: until that is there, the shard is not done.

        Args:
            isolated: work on each source in a process of its own, whose death costs no other source.
            max_hours: for one source, before its process is ended; None for no limit.
        """
        tar = self.out / f"{task.name}.tar"
        for path in (piece_path(self.out, task.name), sidecar_path(tar), tar):
            path.unlink(missing_ok=True)
        rows: list[Row] = []

        def clips() -> Iterator[FinishedClip]:
            for planned in task.sources:
                for row, finished in self.outcomes(planned, isolated=isolated, max_hours=max_hours):
                    rows.append(replace(row, split=task.name.split("/")[0], shard=task.name))
                    if finished:
                        yield finished

        kept = clips()
        for first in kept:  # no clip, no tar
            write_shard(tar, chain([first], kept), clip=self.clip)
        write_piece(self.out, task.name, rows)

    def outcomes(self, planned: PlannedSource, *, isolated: bool, max_hours: float | None) -> list[Outcome]:
        """Return what becomes of one source. What every other source would meet too is raised."""
        source = planned.source
        row = Row(
            kind=SOURCE,
            source=source.name,
            verdict=FAILED,
            step="work",
            sha256=planned.sha256,
            num_bytes=planned.num_bytes,
            start_s=source.start_s,
            stop_s=source.stop_s,
        )
        try:
            if planned.fault is not None:
                return [(replace(row, verdict=REJECTED, step="check", reason=planned.fault), None)]
            if isolated:
                with worker_pool(1) as pool:
                    return pool.submit(self.outcomes, planned, isolated=False, max_hours=max_hours).result()
            with _ended_after(max_hours):
                clips, (verdict, step, reason) = clips_of_source(source, self.recipe, self.clip)
                return [*clips, (replace(row, verdict=verdict, step=step, reason=reason), None)]
        except BrokenProcessPool:
            causes = "out of memory, a fault in a decoder, or longer than executor.max_hours_per_source"
            reason = f"the process that worked on it died: {causes}"
        except Exception as error:
            if isinstance(error, _STOPS_THE_RUN) or getattr(error, "errno", None) in _DISK_FULL:
                raise
            reason = f"{type(error).__name__}: {error}"
        return [(replace(row, reason=reason), None)]


def worker_pool(num_workers: int) -> ProcessPoolExecutor:
    """Return a pool of processes of one thread each.

    They are forked from a process that has no threads, whose locks they would inherit, and has imported what they need.
    """
    context = multiprocessing.get_context("forkserver")
    ours = (name for name in sys.modules if name.startswith("lipsync_lightning."))
    context.set_forkserver_preload(["__main__", *ours])
    return ProcessPoolExecutor(num_workers, mp_context=context, initializer=_begin)


def use_one_thread() -> None:
    """Let this process compute on one thread: there are as many workers as cores."""
    os.environ["OMP_NUM_THREADS"] = "1"
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def _begin() -> None:
    """Begin a worker. It waits on a pipe of which it holds both ends, so it would outlive a parent that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_the_parent() -> None:
        parent.join()
        os._exit(1)

    use_one_thread()
    threading.Thread(target=end_with_the_parent, daemon=True).start()


@contextmanager
def _ended_after(max_hours: float | None) -> Iterator[None]:
    """End this whole process if what is done within takes longer.

    The signal keeps its default action, at which the system ends the process: a handler of Python's would wait for the
    C code, such as a decoder, to come back, and that is what hangs.
    """
    if max_hours is None:
        yield
        return
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, max_hours * 3600)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
