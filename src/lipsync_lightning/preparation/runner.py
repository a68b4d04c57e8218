"""From a recipe to shards and their ledger: plans shards, and has those made that are not done.

A shard is done when its piece of the ledger is there and it is whole; else it is made from scratch. So a run that was
interrupted, whatever the moment, goes on with the shards that are missing and ends with the same bytes.
"""

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadConfig, BadMedia, NoFace, StepFailed
from lipsync_lightning.files import owned, sha256_of
from lipsync_lightning.models.lazy_network import LazyNetwork
from lipsync_lightning.preparation.executors import Executor
from lipsync_lightning.preparation.filters import Rejected
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
from lipsync_lightning.preparation.plan import Plan
from lipsync_lightning.preparation.recipe import Recipe
from lipsync_lightning.preparation.shard_job import PlannedSource, ShardJob, ShardTask
from lipsync_lightning.preparation.sources import Source
from lipsync_lightning.preparation.split import END, divided, sides


def prepare(
    recipe: Recipe, clip: ClipSpec, out: Path, *, sources_per_shard: int, executor: Executor, retry_failed: bool = False
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
    with owned(out):
        job = ShardJob(recipe=recipe, clip=clip, out=out)
        plan, tasks = _planned(job, sources_per_shard, retry_failed)
        total, desc, found = len(plan.shards), f"prepare {recipe.name}", Counter[str]()
        # The rate is that of the whole run, since shards differ.
        with tqdm(desc=desc, total=total, initial=total - len(tasks), unit="shard", smoothing=0) as bar:
            for task in executor.map(job, tasks):
                piece = piece_path(out, task.name)
                found += totals(read_piece(piece) if piece.is_file() else ()).clips  # shared folders may show it late
                bar.set_postfix_str(", ".join(f"{count} clips {verdict}" for verdict, count in found.items()))
                bar.update()
        rows = list(read_ledger(out))
    num_planned, came_to = len(plan.is_heldout), totals(rows)
    if (num_told := came_to.sources.total()) != num_planned:
        raise StepFailed(f"{out}/ledger tells of {num_told} of {num_planned} sources; run the command again")
    if not came_to.clips[KEPT]:
        reasons = Counter(row.reason for row in rows if row.kind == SOURCE).most_common(3)
        told = "; ".join(f"{reason} ({count} times)" for reason, count in reasons)
        nothing = f"none of {num_planned} sources below {recipe.source} gave a clip"
        raise NoFace(f"{nothing}; commonest reasons: {told}; all: {out}/ledger")
    return came_to


def _planned(job: ShardJob, sources_per_shard: int, retry_failed: bool) -> tuple[Plan, list[ShardTask]]:
    """Return the plan of a folder, saved with further shards for new sources, and the shards that are to be made."""
    recipe = job.recipe
    sources = {source.name: source for source in recipe.sources.all()}
    plan = Plan.load(job.out, recipe.rule(job.clip))
    known = plan.is_heldout
    for row in read_ledger(job.out) if retry_failed else ():
        if row.verdict == FAILED:
            piece_path(job.out, row.shard).unlink(missing_ok=True)
    done = {shard for shard in plan.shards if job.is_done(shard)}
    finished = {name for shard in done for name in plan.shards[shard]}
    ends = {f"{name}{END}" for name in (known.keys() | sources.keys() if recipe.heldout_end else ())}
    of_wholes = {name: side for name, side in known.items() if name not in ends}
    heldout = sides(recipe.split, [*sources, *recipe.sources.missing()], of_wholes)
    divisible = {name for name in sources if not heldout[name] and not {name, f"{name}{END}"} <= finished}
    parts, faults = _divided(job, [sources[name] for name in divisible])
    sources |= parts
    heldout |= dict.fromkeys(parts.keys() - divisible, True)
    for name in known.keys() - sources.keys():  # gone since: work on it will fail, if its shard is not done
        sources[name] = Source(name=name, video=Path(recipe.source) / name)
    wanted = [source for name, source in sources.items() if name not in finished]
    videos = list(dict.fromkeys(source.video for source in wanted))
    with ThreadPoolExecutor() as pool:
        hashed = tqdm(pool.map(_sha256_and_size, videos), total=len(videos), desc="hash", unit="file", delay=2)
        file_of = dict(zip(videos, hashed, strict=True))
    contents: dict[str, str | None] = {}
    for source in wanted:
        sha256, is_whole = file_of[source.video][0], (source.start_s, source.stop_s) == (0.0, None)
        contents[source.name] = sha256 if is_whole or not sha256 else f"{sha256} {source.start_s}-{source.stop_s} s"
    plan = plan.extended(contents, heldout, sources_per_shard)
    plan.save(job.out)
    faults = {name: f"the same bytes as {original}" for name, original in plan.duplicate_of.items()} | faults

    def planned(name: str) -> PlannedSource:
        return PlannedSource(sources[name], *file_of[sources[name].video], faults.get(name))

    todo = [(shard, members) for shard, members in plan.shards.items() if shard not in done]
    return plan, [ShardTask(shard, tuple(map(planned, members))) for shard, members in todo]


def _divided(job: ShardJob, sources: Iterable[Source]) -> tuple[dict[str, Source], dict[str, str]]:
    """Return by name the parts of videos whose end is held out, and why others cannot be divided."""
    parts, faults, length = {}, {}, {"fps": job.clip.fps, "shortest": job.recipe.shortest(job.clip)}
    for source in sources if job.recipe.heldout_end else ():
        try:
            parts |= {part.name: part for part in divided(source, job.recipe.heldout_end or 0, **length)}
        except Rejected as fault:
            faults[source.name] = str(fault)
        except BadMedia:  # of which the check of preparation says what is wrong
            continue
    return parts, faults


def _sha256_and_size(path: Path) -> tuple[str | None, int | None]:
    """Return None of what cannot be read: the check of preparation says why."""
    try:
        return (sha256_of(path), path.stat().st_size) if path.is_file() else (None, None)  # a pipe would never end
    except OSError:
        return None, None
