"""From a recipe to shards and their ledger: plans, has sources worked on, and closes shards.

A shard is closed when its piece of the ledger is there, and is never touched again. Until then its sources' parcels are kept, so that an
interrupted run, whatever the moment, goes on with the sources that have none and ends with the same bytes.
"""

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadConfig, BrokenShard, NoFace, StepFailed, WouldOverwrite
from lipsync_lightning.preparation.executors import Executor, Job, SourceTask
from lipsync_lightning.preparation.ledger import (
    CLIP,
    FAILED,
    KEPT,
    REJECTED,
    SOURCE,
    Row,
    lost_rows,
    piece_path,
    read_ledger,
    sorted_by_trial,
    totals,
    write_piece,
)
from lipsync_lightning.preparation.one_source import Span
from lipsync_lightning.preparation.parcels import Parcel
from lipsync_lightning.preparation.plan import Plan, PlannedShard, duplicates_among
from lipsync_lightning.preparation.recipe import Recipe
from lipsync_lightning.preparation.shards import is_whole, write_shard
from lipsync_lightning.preparation.sources import Source
from lipsync_lightning.preparation.split import sides

WORK = "work"  # folder of parcels below `out`; gone when all shards are closed


def prepare(recipe: Recipe, clip: ClipSpec, out: Path, *, sources_per_shard: int, executor: Executor) -> list[Row]:
    """Make all shards of a recipe under `out`, and return the ledger.

    Raises: WouldOverwrite, if `out` holds another data set, or another process is preparing it; NoFace, if no source gave a clip;
    BadConfig, if `out` lies among the sources, where the shards would be taken for sources themselves; BrokenShard, if a closed shard
    was damaged and cannot be made again; StepFailed, if work stopped before all sources were worked on.
    """
    if out.resolve().is_relative_to(Path(recipe.source).resolve()):
        raise BadConfig(f"out={out} lies inside recipe.source={recipe.source}; choose a folder beside it")
    with alone_in(out):
        job = Job(recipe=recipe, clip=clip)
        sources = {source.name: source for source in recipe.sources.all()}
        plan = Plan.load(out, identity(job))
        rows = without_damaged_shards(read_ledger(out), plan, sources, out)
        plan = extended(plan, job, sources, rows, sources_per_shard, out)
        plan.save(out)
        gone = {name: Source(name=name, video=Path(recipe.source) / name) for name in plan.split_of.keys() - sources.keys()}
        with Progress(recipe.name, plan.shards) as progress:
            work_and_close(job, plan, sources | gone, kept_spans(rows, job.versions), out, executor, progress)
        rows = read_ledger(out)
    if not any(row.kind == CLIP and row.verdict == KEPT for row in rows):
        reasons = Counter(row.reason for row in rows if row.reason).most_common(3)
        raise NoFace(f"none of {len(sources)} sources below {recipe.source} gave a clip; commonest reasons: {reasons}; all: {out}/ledger")
    return rows


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


def without_damaged_shards(rows: Sequence[Row], plan: Plan, sources: Mapping[str, Source], out: Path) -> list[Row]:
    """Return the ledger without closed shards whose tar or sidecar was lost, or cut, since: they are made again.

    Raises: BrokenShard, if a source of such a shard is no longer there.
    """
    with_clips = {row.shard for row in rows if row.kind == CLIP and row.verdict == KEPT}
    damaged = {name for name in with_clips if not is_whole(out / f"{name}.tar")}
    for shard in plan.shards:
        gone = [name for name in shard.sources if name not in sources] if shard.name in damaged else []
        if gone:
            raise BrokenShard(
                f"{out}/{shard.name}.tar was lost or cut, and cannot be made again without {gone[0]}, which is no longer among the "
                f"sources; copy the shard and its sidecar back, or delete {piece_path(out, shard.name)} to do without its clips"
            )
    for name in damaged:
        piece_path(out, name).unlink()
    return [row for row in rows if row.shard not in damaged]


def extended(plan: Plan, job: Job, sources: Mapping[str, Source], rows: Sequence[Row], sources_per_shard: int, out: Path) -> Plan:
    """Return the plan with what is new: sources never seen, and such as may come to something else than the last time."""
    planned_for = plan.split_of
    new = [source for name, source in sources.items() if name not in planned_for]
    # Those seen before come first: what has the same bytes as one of them is the duplicate.
    orphans = {name for name, original in plan.duplicates.items() if original not in sources}
    seen = [source for name, source in sources.items() if name in planned_for and name not in orphans]
    unclear = [*new, *(sources[name] for name in sorted(orphans & sources.keys()))]
    found = duplicates_among([*seen, *unclear]) if unclear else {}
    duplicates = {name: original for name, original in found.items() if name not in planned_for or name in orphans}
    unfinished = {name for shard in plan.shards if not piece_path(out, shard.name).is_file() for name in shard.sources}
    again = names_to_try_again(rows, job.versions, sources) - plan.duplicates.keys() | (orphans - duplicates.keys())
    names = {source.name for source in new} | (again & sources.keys()) - unfinished
    is_held_out = sides(job.recipe.split, [*sources, *job.recipe.sources.missing()], {n: s == "heldout" for n, s in planned_for.items()})
    kept_duplicates = {name: original for name, original in plan.duplicates.items() if name not in orphans}
    return plan.extended(names, {name for name in names if is_held_out[name]}, kept_duplicates | duplicates, sources_per_shard)


def names_to_try_again(rows: Sequence[Row], versions: Mapping[str, str], sources: Mapping[str, Source]) -> set[str]:
    """Return the sources that may come to something else than the last time.

    That is: on which work failed; of which something was rejected by a step that has changed since, or after one; that were rejected and
    have another size since.
    """
    lost = lost_rows(rows)
    sizes = {row.source: row.num_bytes for row in sorted_by_trial(rows) if row.kind == SOURCE and row.verdict == REJECTED}
    other_size = {name for name, size in sizes.items() if name in sources and size_of(sources[name]) != size}
    return other_size | {row.source for row in lost if row.verdict == FAILED or has_changed(row, versions)}


def size_of(source: Source) -> int | None:
    """Return the bytes of a source's video, or None if it is no file that can be looked at."""
    try:
        return source.video.stat().st_size if source.video.is_file() else None
    except OSError:
        return None


def has_changed(row: Row, versions: Mapping[str, str]) -> bool:
    """Return whether any of the steps that a row has been through is no longer what it was."""
    return any(versions.get(step) != made_by for step, made_by in row.steps.items())


def work_and_close(
    job: Job,
    plan: Plan,
    sources: Mapping[str, Source],
    kept: Mapping[str, tuple[Span, ...]],
    out: Path,
    executor: Executor,
    progress: "Progress",
) -> None:
    """Have every source worked on that has no parcel yet, and close each shard as soon as it can be.

    Raises: StepFailed, if the executor leaves sources out.
    """
    unfinished = {shard.name: shard for shard in plan.shards if not piece_path(out, shard.name).is_file()}
    progress.skip(sum(len(shard.sources) for shard in plan.shards if shard.name not in unfinished))
    tasks: list[SourceTask] = []
    left: dict[str, int] = {}
    shard_of: dict[Path, PlannedShard] = {}
    for shard in unfinished.values():
        of_shard = tasks_of(shard, plan, sources, kept, out)
        missing = [task for task in of_shard if job.parcel_rows(task) is None]
        progress.skip(len(of_shard) - len(missing))
        left[shard.name] = len(missing)
        shard_of |= {task.parcel.path: shard for task in missing}
        tasks += missing
        if not missing:
            close(shard, of_shard, job, out)
    for task in executor.work(job, tasks):
        shard = shard_of[task.parcel.path]
        progress.count(job.parcel_rows(task) or [])
        left[shard.name] -= 1
        if left[shard.name] == 0:
            close(shard, tasks_of(shard, plan, sources, kept, out), job, out)
    if any(left.values()):
        raise StepFailed(f"{sum(left.values())} sources were not worked on; the same command goes on with them")
    shutil.rmtree(out / WORK, ignore_errors=True)


def tasks_of(
    shard: PlannedShard, plan: Plan, sources: Mapping[str, Source], kept: Mapping[str, tuple[Span, ...]], out: Path
) -> list[SourceTask]:
    """Return the tasks of one shard, in the order of its clips."""
    return [
        SourceTask(
            source=sources[name],
            parcel=Parcel(out / WORK / shard.name / f"{number:06d}.tar"),
            kept=kept.get(name, ()),
            duplicate_of=plan.duplicates.get(name),
        )
        for number, name in enumerate(shard.sources)
    ]


def kept_spans(rows: Sequence[Row], versions: Mapping[str, str]) -> dict[str, tuple[Span, ...]]:
    """Return by source which frames of whom are in closed shards. Other shots or face settings may have numbered people otherwise."""
    spans: dict[str, tuple[Span, ...]] = defaultdict(tuple)
    for row in rows:
        if row.kind == CLIP and row.verdict == KEPT:
            first_frame = int(str(row.id).rsplit("/", 1)[1].split("-")[0])
            same_numbers = all(row.steps.get(step) == versions[step] for step in ("shots", "faces"))
            last_frame = first_frame + (row.num_frames or 0) - 1
            spans[row.source] += (Span(person=row.person if same_numbers else None, first_frame=first_frame, last_frame=last_frame),)
    return spans


def close(shard: PlannedShard, tasks: Sequence[SourceTask], job: Job, out: Path) -> None:
    """Write a shard from its parcels, its sidecar, and last of all its piece of the ledger."""
    rows_of = {task.parcel.path: job.parcel_rows(task) or [] for task in tasks}
    rows = [replace(row, split=shard.split, shard=shard.name) for of_source in rows_of.values() for row in of_source]
    if any(row.kind == CLIP and row.verdict == KEPT for row in rows):
        clips = (clip for task in tasks for clip in task.parcel.clips(rows_of[task.parcel.path]))
        write_shard(out / f"{shard.name}.tar", clips, clip=job.clip)
    write_piece(out, shard.name, rows)
    shutil.rmtree(out / WORK / shard.name, ignore_errors=True)


@dataclass
class Progress:
    """A bar of sources with clips per second, what was rejected by which step, and the time left."""

    name: str
    shards: Sequence[PlannedShard]
    reasons: Counter[str] = field(default_factory=Counter)
    num_clips: int = 0

    def __enter__(self) -> "Progress":
        total = sum(len(shard.sources) for shard in self.shards)
        self.bar = tqdm(total=total, desc=f"prepare {self.name}", unit="source", dynamic_ncols=True)
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.close()

    def skip(self, num_sources: int) -> None:
        """Count what an earlier run has done; it says nothing about the time left."""
        self.bar.initial += num_sources
        self.bar.update(num_sources)

    def count(self, rows: Sequence[Row]) -> None:
        """Count one source that has just been worked on."""
        found = totals(rows)
        self.num_clips += found.clips.get(KEPT, 0)
        self.reasons.update(found.reasons)
        seconds = self.bar.format_dict["elapsed"]
        rejected = " ".join(f"{step} {count}" for step, count in self.reasons.most_common(4))
        self.bar.set_postfix_str(f"{self.num_clips} clips, {self.num_clips / max(seconds, 1e-9):.2f}/s; rejected: {rejected or 'none'}")
        self.bar.update()
