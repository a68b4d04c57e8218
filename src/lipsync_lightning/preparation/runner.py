"""From a recipe to shards and their ledger: plans shards, and has those made that are not done.

A shard is done when its piece of the ledger is there and it is whole; else it is made from scratch. So a run that was
interrupted, whatever the moment, goes on with the shards that are missing and ends with the same bytes.
"""

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadConfig, NoFace, StepFailed, WouldOverwrite
from lipsync_lightning.files import sha256_of
from lipsync_lightning.models.lazy_network import LazyNetwork
from lipsync_lightning.preparation.executors import Executor
from lipsync_lightning.preparation.ledger import (
    FAILED,
    KEPT,
    SOURCE,
    Totals,
    piece_path,
    read_ledger,
    read_piece,
    totals,
)
from lipsync_lightning.preparation.plan import Plan, PlannedSource
from lipsync_lightning.preparation.recipe import Recipe
from lipsync_lightning.preparation.shard_job import ShardJob, ShardTask
from lipsync_lightning.preparation.sources import Source
from lipsync_lightning.preparation.split import sides


def prepare(
    recipe: Recipe,
    clip: ClipSpec,
    out: Path,
    *,
    sources_per_shard: int,
    executor: Executor,
    retry_failed: bool = False,
) -> Totals:
    """Make all shards of a recipe under `out`, with their ledger, and return what its sources came to.

    Args: retry_failed: make shards again in which work on a source failed.
    Raises: WouldOverwrite, if `out` was prepared by another recipe, or another process is at it; BadConfig, if `out`
    lies among the sources, where shards would be taken for sources; NoFace, if no source gave a clip; StepFailed, if
    workers keep dying; MissingWeights and WrongWeights, before any work, if a scorer lacks its network.
    """
    for step in (recipe.sync, recipe.quality):
        if step is not None and isinstance(step.scorer, LazyNetwork):
            step.scorer.load()
    if out.resolve().is_relative_to(Path(recipe.source).resolve()):
        raise BadConfig(f"out={out} lies inside recipe.source={recipe.source}; choose a folder beside it")
    out.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(out / ".prepare.lock", blocking=False).acquire()
    except Timeout as error:
        raise WouldOverwrite(f"another process is preparing {out}; wait for it, or choose another out=") from error
    with lock:
        job = ShardJob(recipe=recipe, clip=clip, out=out)
        sources = {source.name: source for source in recipe.sources.all()}
        plan = _planned(job, sources, sources_per_shard)
        duplicate_of = plan.duplicate_of
        for planned in plan.split_of.keys() - sources.keys():  # gone since: noted as failed, if their shard is not done
            sources[planned] = Source(name=planned, video=Path(recipe.source) / planned)
        tasks = [
            ShardTask(
                name=shard.name, sources=tuple((sources[s.name], s, duplicate_of.get(s.name)) for s in shard.sources)
            )
            for shard in plan.shards
            if not job.is_done(shard.name)
            or (retry_failed and any(row.verdict == FAILED for row in read_piece(piece_path(out, shard.name))))
        ]
        found = Counter[str]()
        with tqdm(
            total=len(plan.shards),
            initial=len(plan.shards) - len(tasks),
            desc=f"prepare {recipe.name}",
            unit="shard",
            dynamic_ncols=True,
            smoothing=0,  # the rate over the whole run: shards differ
        ) as bar:
            for task in executor.map(job, tasks):
                piece = piece_path(out, task.name)
                found += totals(read_piece(piece) if piece.is_file() else ()).clips  # shared folders may show it late
                bar.set_postfix_str(", ".join(f"{count} clips {verdict}" for verdict, count in found.items()))
                bar.update()
        return _reconciled(plan, recipe, out)


def _planned(job: ShardJob, sources: Mapping[str, Source], sources_per_shard: int) -> Plan:
    """Return the plan of a folder with further shards for sources that it does not know, having saved it."""
    recipe = job.recipe
    plan = Plan.load(job.out, recipe.rule(job.clip))
    known = {name: split == "heldout" for name, split in plan.split_of.items()}
    new = [source for name, source in sources.items() if name not in known]
    videos = list(dict.fromkeys(source.video for source in new))
    with ThreadPoolExecutor() as pool:
        digests = tqdm(pool.map(_size_and_sha256, videos), total=len(videos), desc="hash", unit="file", delay=2)
        file_of = dict(zip(videos, digests, strict=True))
    planned = []
    for source in new:
        num_bytes, sha256 = file_of[source.video]
        stretch = {"start_s": source.start_s, "stop_s": source.stop_s}
        planned.append(PlannedSource(name=source.name, sha256=sha256, num_bytes=num_bytes, **stretch))
    plan = plan.extended(planned, sides(recipe.split, [*sources, *recipe.sources.missing()], known), sources_per_shard)
    plan.save(job.out)
    return plan


def _size_and_sha256(path: Path) -> tuple[int | None, str | None]:
    """Return None of what cannot be read: the check of preparation says why."""
    try:
        return (path.stat().st_size, sha256_of(path)) if path.is_file() else (None, None)  # a pipe would never end
    except OSError:
        return None, None


def _reconciled(plan: Plan, recipe: Recipe, out: Path) -> Totals:
    """Return what the ledger adds up to. Raises: StepFailed, if it lacks planned sources; NoFace, without a clip."""
    rows = list(read_ledger(out))
    found, num_planned = totals(rows), len(plan.split_of)
    if found.sources.total() != num_planned:
        raise StepFailed(
            f"{out}/ledger tells of {found.sources.total()} of {num_planned} sources; run the command again"
        )
    if not found.clips[KEPT]:
        reasons = Counter(row.reason for row in rows if row.kind == SOURCE).most_common(3)
        told = "; ".join(f"{reason} ({count} times)" for reason, count in reasons)
        raise NoFace(
            f"none of {num_planned} sources below {recipe.source} gave a clip; commonest reasons: {told}; "
            f"all: {out}/ledger"
        )
    return found
