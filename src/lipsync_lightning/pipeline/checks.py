"""What a call of the pipeline may ask for."""

from collections.abc import Mapping, Sequence
from math import inf, isfinite
from pathlib import Path
from typing import Any

from lipsync_lightning.errors import BadConfig, WouldOverwrite
from lipsync_lightning.media.h264 import require_known
from lipsync_lightning.media.mux import container_kind


def free_path(out: Path, inputs: Sequence[Path]) -> Path:
    """Return `out`, where a result may be written.

    Raises: WouldOverwrite, if it is a folder or an input; BadConfig, if its ending says no kind of video.
    """
    if out.is_dir():
        raise WouldOverwrite(f"out={out} is a folder; give the name of a file that ends in .mp4")
    if out.resolve() in [path.resolve() for path in inputs]:
        raise WouldOverwrite(f"out={out} is also an input; choose another name")
    container_kind(out)
    return out


def check_call(num_frames: int, asked: Mapping[str, Any]) -> None:
    """Raises: BadConfig, for values that mean nothing."""
    check_counts(windows_at_a_time=asked["windows_at_a_time"])
    require_known(asked["crf"], asked["preset"])
    if asked["pasting"] not in ("mask", "published"):
        raise BadConfig(f"pasting={asked['pasting']!r} is none of mask, published; choose one of them")
    if asked["overlap"] not in range(num_frames):
        raise BadConfig(f"overlap={asked['overlap']!r} must be less than the {num_frames} frames of a window")
    for name in ("start", "end", "sound_offset", "fps"):
        value = asked[name]
        if not (value is None and name == "end") and not (isinstance(value, int | float) and isfinite(value)):
            raise BadConfig(f"{name}={value!r} must be a number")
    if asked["fps"] <= 0:
        raise BadConfig(f"fps={asked['fps']}: give frames a second, more than 0")
    if asked["start"] < 0 or (asked["end"] is not None and asked["end"] <= asked["start"]):
        raise BadConfig(f"start={asked['start']} end={asked['end']}: give seconds, the start before the end")


def check_sampling(num_inference_steps: Any, guidance_scale: Any, scheduler: Any) -> None:
    check_counts(num_inference_steps=num_inference_steps)
    most = scheduler.config["num_train_timesteps"]
    if num_inference_steps > most:
        raise BadConfig(f"num_inference_steps={num_inference_steps}: the schedule has {most}; give as many at most")
    if not (isinstance(guidance_scale, int | float) and 0 <= guidance_scale < inf):
        raise BadConfig(f"guidance_scale={guidance_scale!r} must be a number, 0 or more")


def check_counts(**counts: Any) -> None:
    for name, count in counts.items():
        if not (isinstance(count, int) and count >= 1):
            raise BadConfig(f"{name}={count!r} must be a whole number, 1 or more")
