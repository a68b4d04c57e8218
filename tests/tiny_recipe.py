"""A recipe for the videos of `tiny_media`, and the shards it makes of them."""

from pathlib import Path
from typing import Any

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.media.people import SidecarPeople
from lipsync_lightning.preparation.executors import Executor
from lipsync_lightning.preparation.executors.local import LocalExecutor
from lipsync_lightning.preparation.filters.check import Check
from lipsync_lightning.preparation.ledger import Row, read_ledger
from lipsync_lightning.preparation.recipe import Recipe
from lipsync_lightning.preparation.runner import prepare
from lipsync_lightning.preparation.sources.folder import FolderSources
from lipsync_lightning.preparation.split import SplitByHash

# 64 pixels, because libx264 repeats itself byte for byte from there on, and not always below.
CLIP_64 = ClipSpec(num_frames=4, fps=25, resolution=64, sample_rate_hz=16000, mel_hz=80, num_mels=80)


def folder_recipe(source: Path, *, num_heldout: int = 0, min_seconds: float = 0.4, **settings: Any) -> Recipe:
    """Return a recipe that takes points from sidecars, and lets every clip pass; `settings` are fields of `Recipe`."""
    lenient: dict[str, Any] = {
        "name": "tiny",
        "source": str(source),
        "sources": FolderSources(root=str(source)),
        "split": SplitByHash(num_heldout=num_heldout, identity=".+"),
        "check": Check(min_seconds=min_seconds, min_fps=10, min_side=32, min_dbfs=-200),
        "shots": None,
        "people": SidecarPeople(),
        "min_seconds": min_seconds,
        "max_seconds": 1.2,
        "sync": None,
        "quality": None,
    }
    return Recipe(**lenient | settings)


def prepared(
    source: Path,
    out: Path,
    *,
    sources_per_shard: int,
    clip: ClipSpec = CLIP_64,
    executor: Executor | None = None,
    retry_failed: bool = False,
    **settings: Any,
) -> list[Row]:
    """Make shards of a folder of tiny videos, in this process unless told otherwise, and return their ledger."""
    executor = executor or LocalExecutor(num_workers=0, max_hours_per_source=1)
    running = {"sources_per_shard": sources_per_shard, "executor": executor, "retry_failed": retry_failed}
    prepare(folder_recipe(source, **settings), clip, out, **running)
    return list(read_ledger(out))
