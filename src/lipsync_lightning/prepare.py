"""`python -m lipsync_lightning.prepare recipe=folder recipe.source=<folder of videos>`: raw videos to shards."""

from collections import Counter
from pathlib import Path

from omegaconf import DictConfig

from lipsync_lightning.entry import build, entry_point
from lipsync_lightning.preparation.runner import prepare


@entry_point("prepare")
def main(config: DictConfig) -> None:
    ledger = prepare(
        build(config.recipe),
        build(config.clip),
        Path(config.out),
        sources_per_shard=config.sources_per_shard,
        num_workers=config.num_workers,
    )
    num_clips = sum(len(row["clips"]) for row in ledger)
    print(f"{num_clips} clips of {len(ledger)} sources in {config.out}; what became of each source: {config.out}/ledger.jsonl")
    for reason, count in Counter(reason for row in ledger for reason in row["rejected"]).most_common(5):
        print(f"  rejected {count}: {reason}")


if __name__ == "__main__":
    main()
