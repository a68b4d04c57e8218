"""A run that goes on: from which checkpoint, and with which settings."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lipsync_lightning.callbacks.checkpoint import VERSION, own_version
from lipsync_lightning.composing import flat
from lipsync_lightning.errors import BadConfig, WouldOverwrite, WrongWeights
from lipsync_lightning.models.weights_io import read_file
from lipsync_lightning.modules.weights import CHECKPOINTS, RUN_CONFIG, newest_checkpoint, newest_readable_checkpoint

FIXED = (  # what weights and their moments were made for
    *("module._target_", "module.unet", "module.syncnet", "module.generator", "networks"),
    *("module.autoencoder", "module.scheduler", "module.trainable", "module.lora", "clip", "audio_encoder"),
    "module.optimizer._target_",
)
_FREE = ("path", "get_with", "frames_at_a_time")  # of these: where frozen weights lie, and how they are run
_OF_A_COMMAND = (
    "run_dir",
    "ckpt_path",
    "init_from",
    "checkpoint",
    "demo_dir",
    "profile",
    "memory",
    "hydra",
    "defaults",
)
_MOST_TOLD = 12
_WITH_EMA = "name ema among callbacks=, or start a new run from the average with init_from="


def checkpoint_to_resume(ckpt_path: str | None, run_dir: Path) -> Path | None:
    """Return the checkpoint a run continues from, or None for a new run.

    Raises: BadConfig, if `ckpt_path` is neither `last` nor a file; WouldOverwrite, if a new run would write among the
        checkpoints of a former one.
    """
    if ckpt_path == "last":
        return newest_readable_checkpoint(run_dir)
    if ckpt_path is not None:
        if not Path(ckpt_path).is_file():
            raise BadConfig(f"ckpt_path={ckpt_path} is not a file; give a checkpoint of this run, or ckpt_path=last")
        return Path(ckpt_path)
    if newest := newest_checkpoint(run_dir):
        way_out = "continue it with ckpt_path=last, or choose another run_dir="
        raise WouldOverwrite(f"{run_dir} already holds a run ({newest.name}); {way_out}")
    return None


def state_of(checkpoint: Path) -> dict[str, Any]:
    """Return what a checkpoint holds. Raises: BadConfig, if no training of this version or an older one wrote it."""
    state = read_file(checkpoint)
    if "loops" not in state or "state_dict" not in state:
        told = f"ckpt_path={checkpoint} holds weights, but no run that could go on"
        raise BadConfig(f"{told}; start a new run with init_from={checkpoint}")
    written_by = state.get(VERSION, [0])
    if written_by > own_version():
        here, there = (".".join(map(str, each)) for each in (own_version(), written_by))
        raise WrongWeights(f"{checkpoint} was written by version {there} of lipsync_lightning, this is {here}; upgrade")
    return state


def changed_settings(checkpoint: Path, config: DictConfig) -> list[str]:
    """Return `key: before → now` of what a resumed run does otherwise than before.

    Raises: BadConfig, if its weights, or their optimizer's moments, would mean something else then.
    """
    record = checkpoint.parent.parent / RUN_CONFIG
    if checkpoint.parent.name != CHECKPOINTS or not record.is_file():
        return []
    before, now = (flat(OmegaConf.to_container(each)) for each in (OmegaConf.load(record), config))
    changed = [
        key for key in before | now if before.get(key) != now.get(key) and key.split(".")[0] not in _OF_A_COMMAND
    ]
    told = {key: f"{key}: {before.get(key, 'nothing')} → {now.get(key, 'nothing')}" for key in changed}
    bound = [key for key in changed if key.startswith(FIXED) and key.rpartition(".")[2] not in _FREE]
    fixed = [told[key] for key in sorted(bound, key=lambda key: (not key.startswith("module._target_"), key))]
    way_out = f"leave it as it was, or start a new run with init_from={checkpoint.parent.parent} and another run_dir="
    if fixed:
        raise BadConfig(f"{checkpoint.parent.parent} cannot go on with {'; '.join(fixed[:3])}: {way_out}")
    averages = [any(key.startswith("callbacks.ema.") for key in settings) for settings in (before, now)]
    if averages == [True, False]:
        raise BadConfig(f"{checkpoint.parent.parent} averages its weights, this command does not: {_WITH_EMA}")
    return list(told.values())


def in_a_line(changes: list[str]) -> str:
    """Return changes as a line."""
    more = f"; and {len(changes) - _MOST_TOLD} more" if len(changes) > _MOST_TOLD else ""
    return "; ".join(changes[:_MOST_TOLD]) + more


def is_finished(state: dict[str, Any], config: DictConfig, run_dir: Path) -> str | None:
    """Return that a run has reached what it is asked for, or None.

    Raises: BadConfig, if its networks were not saved.
    """
    step, epoch = state["global_step"], state.get("ClipDataModule", {}).get("epoch", 0)
    most_steps, most_epochs = int(config.trainer.max_steps), int(config.trainer.max_epochs or -1)
    if 0 <= most_steps <= step:
        reached = f"{run_dir} is at step {step} of trainer.max_steps={most_steps}; give more to go on"
    elif 0 <= most_epochs <= epoch:
        reached = f"{run_dir} has made {epoch} passes of trainer.max_epochs={most_epochs}; give more to go on"
    else:
        return None
    if not all((run_dir / name).is_dir() for name in config.networks):
        raise BadConfig(f"{reached} and to save its networks, which were not saved")
    return reached
