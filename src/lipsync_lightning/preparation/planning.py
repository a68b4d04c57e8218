"""What is to be worked on: what is new, and what may come to something else than the last time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lipsync_lightning.preparation.executors import Job
from lipsync_lightning.preparation.history import History
from lipsync_lightning.preparation.ledger import piece_path
from lipsync_lightning.preparation.plan import Plan, PlannedShard, digest_of, duplicates_among, stretch_of
from lipsync_lightning.preparation.sources import Source
from lipsync_lightning.preparation.split import sides


def extended(
    plan: Plan, job: Job, sources: Mapping[str, Source], history: History, sources_per_shard: int, out: Path
) -> Plan:
    """Return the plan with further shards: of sources never seen, and of such as may come to something else than the last time."""
    waiting = {name for shard in unfinished(plan, out) for name in shard.sources}
    planned_for = plan.split_of
    again = names_to_try_again(history, job.versions, sources) | loose_duplicates(plan, history, sources, waiting)
    names = (sources.keys() - planned_for.keys()) | ((again & sources.keys()) - waiting)
    duplicates = {name: original for name, original in plan.duplicates.items() if name not in names}
    duplicates |= duplicates_of(names, waiting - duplicates.keys(), names | duplicates.keys(), history, sources)
    is_held_out = sides(
        job.recipe.split, [*sources, *job.recipe.sources.missing()], {n: s == "heldout" for n, s in planned_for.items()}
    )
    return plan.extended(names, {name for name in names if is_held_out[name]}, duplicates, sources_per_shard)


def unfinished(plan: Plan, out: Path) -> list[PlannedShard]:
    """Return the shards that are not closed."""
    return [shard for shard in plan.shards if not piece_path(out, shard.name).is_file()]


def names_to_try_again(history: History, versions: Mapping[str, str], sources: Mapping[str, Source]) -> set[str]:
    """Return the sources, of those that are there, that may come to something else than the last time.

    That is: on which work failed; of which something was rejected by a step that has changed since, or after one; that were rejected as
    a whole, or broke off, and have another size since.
    """
    return {
        name
        for name, standing in history.sources.items()
        if name in sources
        and (
            standing.may_change(versions) or (not standing.is_used_up and standing.num_bytes != size_of(sources[name]))
        )
    }


def loose_duplicates(plan: Plan, history: History, sources: Mapping[str, Source], waiting: set[str]) -> set[str]:
    """Return the duplicates whose original no longer stands for them: it gave no clips, and is gone, or another file.

    What is waiting to be worked on is left as it was planned: what comes of it is not known yet.
    """
    return {
        name
        for name, original in plan.duplicates.items()
        if not {name, original} & waiting and not _stands(original, history, sources.get(original))
    }


def duplicates_of(
    names: set[str], waiting: set[str], unable: set[str], history: History, sources: Mapping[str, Source]
) -> dict[str, str]:
    """Return which of these sources have the same bytes as another one: by name, the other's name.

    Other ones are: those in closed shards, by the ledger, whose clips are there even where their files are gone, or others by now; those
    that are waiting; and each other.

    Args:
    waiting: without known duplicates.
    unable: to stand for others by what the ledger says: these sources themselves, and known duplicates. An original that is tried again
        would else be taken for one of its own duplicate, and neither would be worked on.
    """
    if not names:
        return {}
    # What has been worked on before comes first, for some of it may have been kept: the newer one is the duplicate.
    unclear = [sources[name] for name in sorted(names, key=lambda name: (name not in history.sources, name))]
    known = known_contents(history, sources, unable)
    sizes = {history.sources[name].num_bytes for name in known.values()}
    found = {}
    for source in unclear:
        original = known.get((digest_of(source), stretch_of(source))) if size_of(source) in sizes else None
        if original is not None:
            found[source.name] = original
    settled = [sources[name] for name in sorted(waiting & sources.keys())]
    return found | duplicates_among(settled, [source for source in unclear if source.name not in found])


def known_contents(history: History, sources: Mapping[str, Source], unable: set[str]) -> dict[tuple[Any, ...], str]:
    """Return by sha256 and stretch the sources that gave clips, or are still there to give the same none; those unable excepted."""
    known: dict[tuple[Any, ...], str] = {}
    for name, standing in history.sources.items():
        if name in unable or standing.sha256 is None or not _stands(name, history, sources.get(name)):
            continue
        stretch = stretch_of(sources[name]) if name in sources else (standing.start_s, standing.stop_s, None)
        known.setdefault((standing.sha256, stretch), name)
    return known


def size_of(source: Source) -> int | None:
    """Return the bytes of a source's video, or None if it is no file that can be looked at."""
    try:
        return source.video.stat().st_size if source.video.is_file() else None
    except OSError:
        return None


def _stands(name: str, history: History, source: Source | None) -> bool:
    """Return whether what the ledger says of a source still holds: its clips are there, or its file is as it was."""
    standing = history.sources.get(name)
    return standing is not None and bool(
        standing.num_kept or (source is not None and size_of(source) == standing.num_bytes)
    )
