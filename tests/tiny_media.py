"""Small videos whose every frame tells its number by its brightness, and whose face is where a json beside them says."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.media.audio import encode_flac
from lipsync_lightning.media.mux import VideoWriter
from lipsync_lightning.media.people import SidecarPeople
from lipsync_lightning.preparation.executors.local import LocalExecutor
from lipsync_lightning.preparation.filters.check import Check
from lipsync_lightning.preparation.ledger import Row, read_ledger
from lipsync_lightning.preparation.recipe import Recipe
from lipsync_lightning.preparation.runner import prepare
from lipsync_lightning.preparation.sources.folder import FolderSources
from lipsync_lightning.preparation.split import SplitByHash
from tiny_frames import FPS, RATE_HZ, SIDE, level, number_of, numbered_frames, sound_of  # noqa: F401

# Brows and nose where a face of 32 pixels is cut out upright, unscaled and wholly inside the frame.
POINTS = np.array([[5.95, 7.0], [20.3, 7.0], [13.125, 14.0]]) + 14


def write_video(
    path: Path,
    num_frames: int,
    sound: np.ndarray | None,
    *,
    without_face: range = range(0),
    frames: Any = None,
    fps: float = FPS,
) -> Path:
    """Write a video and the json of its points, and return the video's path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flac = path.with_name(".sound.flac")
    if sound is not None:
        flac.write_bytes(encode_flac(sound, RATE_HZ))
    with VideoWriter(path, width=SIDE, height=SIDE, fps=fps, sound=flac if sound is not None else None) as writer:
        for frame in numbered_frames(num_frames) if frames is None else frames:
            writer.write(frame)
    flac.unlink(missing_ok=True)
    points = [None if index in without_face else POINTS.tolist() for index in range(num_frames)]
    path.with_suffix(".json").write_text(json.dumps({"points": points}))
    return path


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
    source: Path, out: Path, clip: ClipSpec, *, sources_per_shard: int, num_workers: int = 0, **settings: Any
) -> list[Row]:
    """Make shards of a folder of tiny videos, and return their ledger."""
    executor = LocalExecutor(num_workers=num_workers, max_hours_per_source=1)
    prepare(folder_recipe(source, **settings), clip, out, sources_per_shard=sources_per_shard, executor=executor)
    return list(read_ledger(out))
