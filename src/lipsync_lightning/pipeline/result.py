"""What a call of the pipeline comes to, and how it is written."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lipsync_lightning.media.mux import join, video_writer
from lipsync_lightning.media.resampling import exact
from lipsync_lightning.pipeline.job import job_folder
from lipsync_lightning.pipeline.painting import SceneSpeaker
from lipsync_lightning.pipeline.plan import LeftAlone, Plan
from lipsync_lightning.pipeline.provenance import Facts, facts_of
from lipsync_lightning.pipeline.script import Script

# What of a call makes other pieces of the same plan.
_MAKE_ANOTHER = ("seed", "num_inference_steps", "guidance_scale", "solver", "deep_features_every", "overlap", "pasting")
_MAKE_ANOTHER += ("crf", "preset", "occluder")


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


def _result(path: Path | None, plan: Plan, **more: Any) -> LipSyncResult:
    num_synced = sum(len({frame for turn in scene.turns for frame in turn.frames}) for scene in plan.scenes)
    return LipSyncResult(
        path, plan.num_frames, num_synced, float(plan.timeline.times_s[-1]), plan.left_alone, plan.told, **more
    )


def write_result(
    path: Path | None,
    plan: Plan,
    paint: SceneSpeaker,
    images: Iterator[np.ndarray],
    *,
    script: Script,
    inputs: Mapping[str, Path],
    identity: Callable[[], str],
    asked: Mapping[str, Any],
) -> LipSyncResult:
    """Write every scene to a piece of its own, and join them; pieces that a killed job left are not made again.

    Args:
        path: None, to return frames instead.
        inputs: files, by what they are. identity: names the model. asked: what the call was asked for.
    """
    if path is None:
        frames: list[np.ndarray] = []
        for scene in plan.scenes:
            paint(scene, images, frames.append)
        return _result(None, plan, frames=np.stack(frames))
    facts = facts_of(identity(), inputs)
    info, encode = plan.source.info, {name: asked[name] for name in ("crf", "preset")}
    size = {"width": info.width, "height": info.height, "pixel_aspect": info.pixel_aspect}
    comment = "; ".join(filter(None, [info.metadata.get("comment"), str(facts)]))
    recipe = {"asked": {name: str(asked[name]) for name in _MAKE_ANOTHER}, "facts": str(facts), "plan": plan.digest()}
    recipe["generator"] = asked["generator"] and asked["generator"].initial_seed()
    with job_folder(path, recipe) as folder:
        pieces = [folder / f"{number:06d}.mp4" for number in range(len(plan.scenes))]
        for scene, piece in zip(plan.scenes, pieces, strict=True):
            if piece.is_file():
                paint.done(sum(1 for _ in islice(images, len(scene.frames))))
                continue
            # No frame looks ahead: see `join`.
            with video_writer(piece, **size, fps=25, num_b_frames=0, **encode) as write:
                paint(scene, images, write)
        join(
            path,
            pieces,
            plan.timeline.times_s,
            sound=script.heard,
            sound_offset_s=exact(script.begins_s),
            sound_end_s=plan.timeline.times_s[-1] if asked["length"] == "shortest" else None,
            audio_track=script.audio_track,
            keep_sound=asked["keep_sound"],
            metadata={**info.metadata, "comment": comment},
        )
    return _result(path, plan, facts=facts)
