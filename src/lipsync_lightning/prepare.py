"""`python -m lipsync_lightning.prepare recipe=folder recipe.source=<folder of videos>`: raw videos to shards.

`python -m lipsync_lightning.prepare inspect=<folder of shards>`: what lies in such a folder, and whether it is whole.
"""

from pathlib import Path

from omegaconf import DictConfig

from lipsync_lightning.cli import build, entry_point
from lipsync_lightning.errors import BrokenShard
from lipsync_lightning.preparation.history import Totals
from lipsync_lightning.preparation.ledger import FAILED, KEPT, REJECTED
from lipsync_lightning.preparation.runner import prepare
from lipsync_lightning.preparation.shard_page import terminal_lines, write_inspection
from lipsync_lightning.preparation.shard_survey import survey_shards


def summary(found: Totals, out: Path) -> list[str]:
    """Return what became of all sources and clips, in lines."""
    sources = ", ".join(f"{found.sources[verdict]} {verdict}" for verdict in (KEPT, REJECTED, FAILED))
    lines = [
        f"{found.clips.get(KEPT, 0)} clips in {out}",
        f"{found.num_sources} sources: {sources}; each with its reason: {out}/ledger",
    ]
    return lines + [f"  {step}: {count} rejected" for step, count in found.reasons.items()]


def inspect_shards(folder: Path) -> Path:
    """Print what a folder of shards holds and what is wrong with it, write it as a page below the folder, and return the page's path.

    Raises: MissingShards, if there are no shards; BrokenShard, after all that, if anything is wrong.
    """
    found = survey_shards(folder)
    print("\n".join(terminal_lines(found)))
    page = write_inspection(found)
    print(f"{page}: open it in a browser; contact sheet and all of the above")
    if found.faults:
        raise BrokenShard(
            f"{folder}: {len(found.faults)} faults, the first is at {found.faults[0].where}; each is told above"
        )
    return page


@entry_point("prepare")
def main(config: DictConfig) -> None:
    if config.inspect is not None:
        inspect_shards(Path(config.inspect))
        return
    out = Path(config.out)
    found = prepare(
        build(config.recipe),
        build(config.clip),
        out,
        sources_per_shard=config.sources_per_shard,
        executor=build(config.executor),
    )
    print("\n".join(summary(found, out)))


if __name__ == "__main__":
    main()
