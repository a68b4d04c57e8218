"""From a recipe to shards and their ledger: plans, has sources worked on, and closes shards.

A shard is closed when its piece of the ledger is there, and is never touched again. Until then its sources' parcels are kept, so that an
interrupted run, whatever the moment, goes on with the sources that have none and ends with the same bytes.
"""

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadConfig, BrokenShard, NoFace, StepFailed, WouldOverwrite
from lipsync_lightning.models.lazy_network import LazyNetwork
from lipsync_lightning.preparation.executors import Executor, Job, SourceTask
from lipsync_lightning.preparation.history import History, Totals, has_changed
from lipsync_lightning.preparation.ledger import KEPT, piece_path, read_ledger, read_pieces, write_piece
from lipsync_lightning.preparation.one_source import Span
from lipsync_lightning.preparation.parcels import Parcel
from lipsync_lightning.preparation.plan import Plan, PlannedShard
from lipsync_lightning.preparation.planning import extended, unfinished
from lipsync_lightning.preparation.progress import Progress
from lipsync_lightning.preparation.recipe import Recipe
from lipsync_lightning.preparation.sources import Source
from lipsync_lightning.shards.format import is_whole, write_shard

WORK = "work"  # folder of parcels below `out`; gone when all shards are closed


def prepare(recipe: Recipe, clip: ClipSpec, out: Path, *, sources_per_shard: int, executor: Executor) -> Totals:
    """Make all shards of a recipe under `out`, with their ledger, and return what its sources came to.

    Raises: WouldOverwrite, if `out` holds another data set, or another process is preparing it; NoFace, if no source gave a clip;
    BadConfig, if `out` lies among the sources, where the shards would be taken for sources themselves; BrokenShard, if a closed shard
    was damaged and cannot be made again; StepFailed, if work stopped before all sources were worked on; MissingWeights and WrongWeights,
    if a judge lacks its network.
    """
    require_networks(recipe)
    if out.resolve().is_relative_to(Path(recipe.source).resolve()):
        raise BadConfig(f"out={out} lies inside recipe.source={recipe.source}; choose a folder beside it")
    with alone_in(out):
        job = Job(recipe=recipe, clip=clip)
        sources = {source.name: source for source in recipe.sources.all()}
        plan = Plan.load(out, identity(job))
        remove_damaged_shards(sources, out)
        history = History.of(read_ledger(out))
        plan = extended(plan, job, sources, history, sources_per_shard, out)
        plan.save(out)
        gone = {
            name: Source(name=name, video=Path(recipe.source) / name) for name in plan.split_of.keys() - sources.keys()
        }
        Run(job, plan, sources | gone, history, out).finish(executor)
    totals = history.totals()
    if not totals.clips.get(KEPT):
        reasons = Counter(row.reason for row in read_ledger(out) if row.reason).most_common(3)
        told = "; ".join(f"{reason} ({count} times)" for reason, count in reasons)
        raise NoFace(
            f"none of {len(sources)} sources below {recipe.source} gave a clip; commonest reasons: {told}; all: {out}/ledger"
        )
    return totals


def require_networks(recipe: Recipe) -> None:
    """Raises: MissingWeights, WrongWeights now, instead of when the first clip is judged."""
    for step in (recipe.sync, recipe.quality):
        judge = getattr(step, "judge", None)
        if isinstance(judge, LazyNetwork):
            judge.load()


def identity(job: Job) -> dict[str, Any]:
    """Return what all shards of one folder must share."""
    clip = {name: getattr(job.clip, name) for name in ("fps", "resolution", "sample_rate_hz")}
    return {"name": job.recipe.name, "clip": clip, "split": job.recipe.split.rule}


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Raises: WouldOverwrite, if another process is preparing this folder."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".prepare.lock", blocking=False):
            yield
    except Timeout as error:
        raise WouldOverwrite(f"another process is preparing {out}; wait for it, or choose another out=") from error


def remove_damaged_shards(sources: Mapping[str, Source], out: Path) -> None:
    """Take closed shards whose tar or sidecar was lost, or cut, since out of the ledger: they are made again.

    Raises: BrokenShard, if a source of such a clip is no longer there.
    """
    damaged: dict[str, set[str]] = {}  # sources of which clips are lost
    for rows in read_pieces(out):
        with_clips = {row.source for row in rows if row.is_kept_clip}
        if with_clips and not is_whole(out / f"{rows[0].shard}.tar"):
            damaged[rows[0].shard] = with_clips
    for name, with_clips in damaged.items():
        gone = sorted(with_clips - sources.keys())
        if gone:
            raise BrokenShard(
                f"{out}/{name}.tar was lost or cut, and cannot be made again without {gone[0]}, which is no longer among the sources; "
                f"copy the shard and its sidecar back, or delete {piece_path(out, name)} to have it made of the sources that are left"
            )
    for name in damaged:
        piece_path(out, name).unlink()


@dataclass
class Run:
    """Everything that is left to be done of a plan."""

    job: Job
    plan: Plan
    sources: Mapping[str, Source]
    history: History  # grows by each shard that is closed
    out: Path

    def finish(self, executor: Executor) -> None:
        """Have every source worked on that has no parcel yet, and close each shard as soon as it can be.

        Raises: StepFailed, if the executor leaves sources out.
        """
        shards = unfinished(self.plan, self.out)
        with Progress(self.job.recipe.name, sum(len(shard.sources) for shard in shards)) as progress:
            while shards:
                self._finish(apart(shards), executor, progress)
                shards = unfinished(self.plan, self.out)
        shutil.rmtree(self.out / WORK, ignore_errors=True)

    def _finish(self, shards: Sequence[PlannedShard], executor: Executor, progress: Progress) -> None:
        self.kept = kept_spans(self.out, self._names_with_clips(shards), self.job.versions)
        missing = {shard.name: self._without_parcels(shard) for shard in shards}
        tasks = [task for of_shard in missing.values() for task in of_shard]
        shard_of = {task.parcel.path: shard for shard in shards for task in missing[shard.name]}
        left = {name: len(of_shard) for name, of_shard in missing.items()}
        progress.skip(sum(len(shard.sources) for shard in shards) - len(tasks))
        for shard in shards:
            if not missing[shard.name]:
                self._close(shard)
        for task in executor.work(self.job, tasks):
            progress.count(self.job.parcel_rows(task) or [])
            shard = shard_of[task.parcel.path]
            left[shard.name] -= 1
            if left[shard.name] == 0:
                self._close(shard)
        if any(left.values()):
            raise StepFailed(f"{sum(left.values())} sources were not worked on; the same command goes on with them")

    def _names_with_clips(self, shards: Sequence[PlannedShard]) -> set[str]:
        names = {name for shard in shards for name in shard.sources if name in self.history.sources}
        return {name for name in names if self.history.sources[name].num_kept}

    def _without_parcels(self, shard: PlannedShard) -> list[SourceTask]:
        return [task for task in self._tasks(shard) if self.job.parcel_rows(task) is None]

    def _tasks(self, shard: PlannedShard) -> list[SourceTask]:
        """Return the tasks of one shard, in the order of its clips."""
        return [
            SourceTask(
                source=self.sources[name],
                parcel=Parcel(self.out / WORK / shard.name / f"{number:06d}.tar"),
                kept=self.kept.get(name, ()),
                duplicate_of=self.plan.duplicates.get(name),
            )
            for number, name in enumerate(shard.sources)
        ]

    def _close(self, shard: PlannedShard) -> None:
        """Write a shard from its parcels, its sidecar, and last of all its piece of the ledger."""
        tasks = self._tasks(shard)
        rows_of = {task.parcel.path: self.job.parcel_rows(task) or [] for task in tasks}
        rows = [
            replace(row, split=shard.split, shard=shard.name) for of_source in rows_of.values() for row in of_source
        ]
        if any(row.is_kept_clip for row in rows):
            clips = (clip for task in tasks for clip in task.parcel.clips(rows_of[task.parcel.path]))
            write_shard(self.out / f"{shard.name}.tar", clips, clip=self.job.clip)
        write_piece(self.out, shard.name, rows)
        self.history.add(rows)
        shutil.rmtree(self.out / WORK / shard.name, ignore_errors=True)


def apart(shards: Sequence[PlannedShard]) -> list[PlannedShard]:
    """Return those shards none of whose sources stands in an earlier one too.

    Where both were damaged, what the earlier one holds must be known before the later one is made, or both would hold the same clips.
    """
    seen: set[str] = set()
    found = []
    for shard in shards:
        if not seen & set(shard.sources):
            found.append(shard)
        seen.update(shard.sources)
    return found


def kept_spans(out: Path, names: set[str], versions: Mapping[str, str]) -> dict[str, tuple[Span, ...]]:
    """Return by source, of those of these names, which frames of whom are in closed shards.

    Other shots or face settings may have numbered people otherwise: then anybody may be meant.
    """
    spans: dict[str, tuple[Span, ...]] = defaultdict(tuple)
    for row in read_ledger(out) if names else ():
        if row.source in names and row.is_kept_clip:
            first_frame = int(str(row.id).rsplit("/", 1)[1].split("-")[0])
            numbering = [(step, row.steps.get(step, "")) for step in ("shots", "faces")]
            person = None if has_changed(numbering, versions) else row.person
            last_frame = first_frame + (row.num_frames or 0) - 1
            spans[row.source] += (Span(person=person, first_frame=first_frame, last_frame=last_frame),)
    return spans
