"""`python -m lipsync_lightning.prepare recipe=folder recipe.source=<folder of videos>`: raw videos to shards.

`python -m lipsync_lightning.prepare inspect=<folder of shards>`: what lies in such a folder, and whether it is whole.
"""

from pathlib import Path

from omegaconf import DictConfig

from lipsync_lightning.cli import build
from lipsync_lightning.preparation.inspection import inspect_shards
from lipsync_lightning.preparation.ledger import FAILED, KEPT, REJECTED
from lipsync_lightning.preparation.runner import prepare


def run(config: DictConfig) -> None:
    if config.inspect is not None:
        print(f"{inspect_shards(Path(config.inspect))}: open it in a browser; faces and all of the above")
        return
    out = Path(config.out)
    found = prepare(
        build(config.recipe),
        build(config.clip),
        out,
        sources_per_shard=config.sources_per_shard,
        executor=build(config.executor),
        retry_failed=config.retry_failed,
    )
    verdicts = ", ".join(f"{found.sources[verdict]} {verdict}" for verdict in (KEPT, REJECTED, FAILED))
    print(f"{found.clips[KEPT]} clips in {out}")
    print(f"{found.sources.total()} sources: {verdicts}; each with its reason: {out}/ledger")
    for kind, by_step in found.lost.items():
        if by_step:
            print(f"  {kind}s not kept: " + ", ".join(f"{step} {count}" for step, count in by_step.most_common()))
