"""Where preparation runs: processes on one machine, one shard a task.

Which sources make up a shard is fixed before work begins, so an interrupted run continues with the shards
that are not there yet, and the result does not depend on the number of workers.
"""

import hashlib
import json
import multiprocessing
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from tqdm import tqdm

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadConfig, BrokenShard, NoFace, WouldOverwrite
from lipsync_lightning.paths import write_atomically
from lipsync_lightning.preparation.recipe import Recipe, may_be_video
from lipsync_lightning.preparation.shards import FinishedClip, Sidecar, read_sidecar, sidecar_path, write_shard
from lipsync_lightning.preparation.source import prepare_source


@dataclass(frozen=True)
class ShardTask:
    """One shard to be made."""

    path: Path
    names: tuple[str, ...]
    recipe: Recipe
    clip: ClipSpec

    @property
    def plan(self) -> str:
        """Hash of everything the shard's content depends on, the videos' own bytes excepted."""
        cut = (self.recipe.name, self.recipe.min_seconds, self.recipe.max_seconds, type(self.recipe.faces).__name__)
        return hashlib.sha256(json.dumps([self.names, cut, self.clip.as_dict()]).encode()).hexdigest()


def plan_shards(recipe: Recipe, clip: ClipSpec, out: Path, sources_per_shard: int) -> list[ShardTask]:
    """Return the shards that this recipe makes, held-out ones apart."""
    names = recipe.sources()
    heldout = recipe.split.heldout([name for name in names if may_be_video(name)])
    tasks = []
    for split, members in (("train", [n for n in names if n not in heldout]), ("heldout", sorted(heldout))):
        for number, first in enumerate(range(0, len(members), sources_per_shard)):
            tasks.append(ShardTask(out / split / f"{number:06d}.tar", tuple(members[first : first + sources_per_shard]), recipe, clip))
    return tasks


def prepare(recipe: Recipe, clip: ClipSpec, out: Path, *, sources_per_shard: int, num_workers: int) -> list[dict[str, Any]]:
    """Make all shards of a recipe under `out` and return the ledger, one row a source, also written to `out/ledger.jsonl`.

    Raises: WouldOverwrite, if `out` holds shards of other sources or settings; NoFace, if no source gave a clip; BadConfig, if `out`
    lies among the sources, where the shards would be taken for sources themselves.
    """
    if out.resolve().is_relative_to(Path(recipe.source).resolve()):
        raise BadConfig(f"out={out} lies inside recipe.source={recipe.source}; choose a folder beside it")
    tasks = plan_shards(recipe, clip, out, sources_per_shard)
    missing = [task for task in tasks if not _is_done(task)]
    _refuse_foreign_shards(out, {task.path for task in tasks})
    with tqdm(total=sum(len(task.names) for task in tasks), desc=f"prepare {recipe.name}", unit="source") as bar:
        bar.update(sum(len(task.names) for task in tasks) - sum(len(task.names) for task in missing))
        for task in _run_all(missing, num_workers):
            bar.update(len(task.names))
    ledger = [row for task in tasks for row in read_sidecar(task.path).ledger]
    write_atomically(out / "ledger.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ledger).encode())
    if not any(row["clips"] for row in ledger):
        reasons = Counter(reason for row in ledger for reason in row["rejected"]).most_common(3)
        raise NoFace(
            f"none of {len(ledger)} sources below {recipe.source} gave a clip; commonest reasons: {reasons}; all are in {out}/ledger.jsonl"
        )
    return ledger


def make_shard(task: ShardTask) -> Sidecar:
    """Make one shard from its sources."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    ledger: list[dict[str, Any]] = []

    def clips() -> Iterator[FinishedClip]:
        for name in task.names:
            row: dict[str, Any] = {"source": name, "clips": [], "rejected": []}
            for result in prepare_source(name, task.recipe, task.clip):
                if isinstance(result, FinishedClip):
                    row["clips"].append(result.id)
                    yield result
                else:
                    row["rejected"].append(result.reason)
            ledger.append(row)

    return write_shard(task.path, clips(), clip=task.clip, plan=task.plan, ledger=ledger)


def _run_all(tasks: list[ShardTask], num_workers: int) -> Iterator[ShardTask]:
    if num_workers == 0:
        for task in tasks:
            make_shard(task)
            yield task
        return
    # Spawned, not forked: a forked child inherits the locks of the parent's threads.
    with ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(make_shard, task): task for task in tasks}
        try:
            for future in as_completed(running):
                future.result()
                yield running[future]
        finally:
            pool.shutdown(cancel_futures=True)  # what stopped one task, such as a full disk, stops the rest


def _is_done(task: ShardTask) -> bool:
    if not (task.path.is_file() and sidecar_path(task.path).is_file()):
        return False
    try:
        sidecar = read_sidecar(task.path)
    except BrokenShard:
        return False  # the shard is made again, which mends its sidecar
    if sidecar.plan != task.plan:
        raise WouldOverwrite(f"{task.path} was made from other sources or settings; choose another out=, or delete {task.path.parents[1]}")
    return task.path.stat().st_size == sidecar.num_bytes


def _refuse_foreign_shards(out: Path, expected: set[Path]) -> None:
    foreign = sorted(set(out.glob("*/*.tar")) - expected)
    if foreign:
        raise WouldOverwrite(f"{out} already holds shards of another run ({foreign[0]} and {len(foreign) - 1} more); choose another out=")
