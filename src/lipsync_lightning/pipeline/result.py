"""What a call of the pipeline comes to, and how it is written."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lipsync_lightning.media.mux import video_writer
from lipsync_lightning.pipeline.plan import LeftAlone, Plan
from lipsync_lightning.pipeline.provenance import Facts


@dataclass(frozen=True)
class LipSyncResult:
    path: Path | None
    num_frames: int
    num_synced: int  # frames with a new mouth; the others are the video's
    seconds: float  # of picture
    left_alone: list[LeftAlone]  # where somebody should speak, and nothing was painted
    told: list[str]  # what was converted or lost of the video, and what did not go as asked, in sentences
    facts: Facts | None = None  # by which model, of what; None without `out`
    frames: np.ndarray | None = None  # (F, H, W, 3) uint8, where no `out` was given


def result_of(path: Path | None, plan: Plan, **more: Any) -> LipSyncResult:
    num_synced = sum(len({frame for turn in scene.turns for frame in turn.frames}) for scene in plan.scenes)
    return LipSyncResult(
        path, plan.num_frames, num_synced, float(plan.timeline.times_s[-1]), plan.left_alone, plan.told, **more
    )


def marked(metadata: Mapping[str, str], facts: Facts) -> dict[str, str]:
    return {**metadata, "comment": "; ".join(filter(None, [metadata.get("comment"), str(facts)]))}


def piece_writer(piece: Path, plan: Plan, asked: Mapping[str, Any]) -> AbstractContextManager[Callable[..., None]]:
    info, encode = plan.source.info, {name: asked[name] for name in ("crf", "preset")}
    size = {"width": info.width, "height": info.height, "pixel_aspect": info.pixel_aspect}
    return video_writer(
        piece, **size, fps=25, num_b_frames=0, **encode
    )  # frames in the order they are shown: see `join`
