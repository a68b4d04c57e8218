"""What of a module goes into a checkpoint: everything but frozen networks, and the clip it was trained for."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import WrongWeights


def leave_out_frozen(checkpoint: dict[str, Any], frozen_parts: Sequence[str], clip: ClipSpec) -> None:
    """Drop the weights of `frozen_parts` (attribute names) from a checkpoint and note the clip."""
    prefixes = tuple(f"{part}." for part in frozen_parts)
    checkpoint["state_dict"] = {n: t for n, t in checkpoint["state_dict"].items() if not n.startswith(prefixes)}
    checkpoint["clip"] = clip.as_dict()


def put_back_frozen(checkpoint: dict[str, Any], module: nn.Module, frozen_parts: Sequence[str], clip: ClipSpec) -> None:
    """Fill the frozen weights back in from `module` itself, so that loading can be strict.

    Raises: WrongWeights, if the checkpoint is not of one of our runs; ClipMismatch, if it was trained for other clips.
    """
    if "clip" not in checkpoint:
        raise WrongWeights(
            "ckpt_path names a checkpoint that no run of this library wrote; give one from the run's checkpoints folder"
        )
    ClipSpec.from_dict(checkpoint["clip"], "the checkpoint").require_equal(clip, "the checkpoint", "this run")
    prefixes = tuple(f"{part}." for part in frozen_parts)
    checkpoint["state_dict"] |= {n: t for n, t in module.state_dict().items() if n.startswith(prefixes)}
