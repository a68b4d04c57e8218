"""What is to be worked on: what is new, and what may come to something else than the last time."""

from collections.abc import Mapping
from pathlib import Path

from lipsync_lightning.preparation.executors import Job
from lipsync_lightning.preparation.history import History
from lipsync_lightning.preparation.ledger import REJECTED, piece_path
from lipsync_lightning.preparation.plan import Plan, PlannedShard, duplicates_among
from lipsync_lightning.preparation.sources import Source
from lipsync_lightning.preparation.split import sides


def extended(plan: Plan, job: Job, sources: Mapping[str, Source], history: History, sources_per_shard: int, out: Path) -> Plan:
    """Return the plan with further shards: of sources never seen, and of such as may come to something else than the last time."""
    planned_for = plan.split_of
    new = sources.keys() - planned_for.keys()
    orphans = {name for name, original in plan.duplicates.items() if original not in sources}
    duplicates = {name: original for name, original in plan.duplicates.items() if name not in orphans}
    duplicates |= duplicates_of_unclear(sources, planned_for.keys() - orphans)
    again = (names_to_try_again(history, job.versions, sources) | orphans) - duplicates.keys()
    waiting = {name for shard in unfinished(plan, out) for name in shard.sources}
    names = new | (again & sources.keys()) - waiting
    is_held_out = sides(job.recipe.split, [*sources, *job.recipe.sources.missing()], {n: s == "heldout" for n, s in planned_for.items()})
    return plan.extended(names, {name for name in names if is_held_out[name]}, duplicates, sources_per_shard)


def unfinished(plan: Plan, out: Path) -> list[PlannedShard]:
    """Return the shards that are not closed."""
    return [shard for shard in plan.shards if not piece_path(out, shard.name).is_file()]


def duplicates_of_unclear(sources: Mapping[str, Source], settled: set[str]) -> dict[str, str]:
    """Return which sources that are not settled have the same bytes as another: by name, the other's name."""
    unclear = [source for name, source in sources.items() if name not in settled]
    if not unclear:
        return {}
    # The settled come first: what has the same bytes as one of them is the duplicate.
    found = duplicates_among([*(source for name, source in sources.items() if name in settled), *unclear])
    return {name: original for name, original in found.items() if name not in settled}


def names_to_try_again(history: History, versions: Mapping[str, str], sources: Mapping[str, Source]) -> set[str]:
    """Return the sources, of those that are there, that may come to something else than the last time.

    That is: on which work failed; of which something was rejected by a step that has changed since, or after one; that were rejected as
    a whole and have another size since.
    """
    return {
        name
        for name, standing in history.sources.items()
        if name in sources
        and (standing.may_change(versions) or (standing.verdict == REJECTED and standing.num_bytes != size_of(sources[name])))
    }


def size_of(source: Source) -> int | None:
    """Return the bytes of a source's video, or None if it is no file that can be looked at."""
    try:
        return source.video.stat().st_size if source.video.is_file() else None
    except OSError:
        return None
