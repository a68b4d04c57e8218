"""Weights of a former run, as the start of a new one: `init_from`."""

import json
import warnings
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from lipsync_lightning.errors import MissingWeights, WrongWeights
from lipsync_lightning.models.lora import BASE, SCALE, merged
from lipsync_lightning.models.weights_io import read_file

RUN_CONFIG = "config.yaml"  # in a run's folder: the configuration it was trained with
CHECKPOINTS = "checkpoints"  # folder of a run that holds its checkpoints
BEST = "best.json"  # in it: what the best were judged by


def checkpoints_of(run_dir: Path) -> list[Path]:
    """Return the checkpoints in a run's folder, the highest step first."""
    return sorted((run_dir / CHECKPOINTS).glob("step_*.ckpt"), reverse=True)


def newest_checkpoint(run_dir: Path) -> Path | None:
    """Return the checkpoint with the highest step in a run's folder, or None."""
    return next(iter(checkpoints_of(run_dir)), None)


def chosen_checkpoint(run_dir: Path, which: str | int) -> Path | None:
    """Return a run's checkpoint: `last`, `best` by what `callbacks.checkpoint.monitor` names, or that of a step.

    Returns None in a folder without checkpoints. Raises: WrongWeights, if others are there.
    """
    folder = run_dir / CHECKPOINTS
    newest = newest_checkpoint(run_dir)
    if which == "last" or newest is None:
        return newest
    kept = best_checkpoints(run_dir)
    if which == "best":
        if not kept:
            told = f"{run_dir} kept no best checkpoint; its training has to be given callbacks.checkpoint.monitor="
            raise WrongWeights(f"{told}; give checkpoint=last or a step")
        return folder / next(iter(kept))
    steps = {int(path.stem.partition("_")[2]): path for path in folder.glob("*_*.ckpt")}
    if str(which).isdecimal() and int(which) in steps:
        return steps[int(which)]
    raise WrongWeights(f"checkpoint={which}: {run_dir} has steps {sorted(steps)}; give one, last or best")


def best_checkpoints(run_dir: Path) -> dict[str, float]:
    """Return the values by which checkpoints are a run's best, by file name, the best first."""
    record = run_dir / CHECKPOINTS / BEST
    values: dict[str, float] = json.loads(record.read_text()) if record.is_file() else {}
    return {name: value for name, value in values.items() if (record.parent / name).is_file()}


def newest_readable_checkpoint(run_dir: Path) -> Path | None:
    """Return the newest checkpoint that can be read, or None where there never was one.

    Newer ones that cannot be read are renamed, with a warning: they would count among the newest, for which good ones
    are deleted. Raises: WrongWeights, if none of those there can be read.
    """
    broken: list[Path] = []
    for checkpoint in checkpoints_of(run_dir):
        try:
            read_file(checkpoint)
        except WrongWeights as error:
            warnings.warn(str(error), stacklevel=2)
            broken.append(checkpoint)
        except MissingWeights:
            continue  # another rank has renamed it
        else:
            for other in broken:
                aside = other.with_suffix(".ckpt.broken")
                with suppress(FileNotFoundError):  # another rank was faster
                    other.rename(aside)
                text = f"{other.name} is set aside as {aside.name}; the checkpoint before it is taken"
                warnings.warn(text, stacklevel=2)
            return checkpoint
    if broken:
        raise WrongWeights(f"no checkpoint in {broken[0].parent} can be read; start anew with another run_dir=")
    return None


def network_weights(path: str, network: str, which: str | int = "last") -> dict[str, Tensor]:
    """Return the state dict of one network, by its own names, LoRA merged.

    Args:
        path: a checkpoint file, a run's folder, an export folder, or a folder that holds this network alone.
        network: the network's attribute in its module, and its subfolder in an export, such as `unet`.
        which: of a run's checkpoints, see `chosen_checkpoint`.
    Raises: MissingWeights, if there is nothing of the kind at `path`; WrongWeights, if it cannot be read.
    """
    require_weights(path, which)
    folder = Path(path)
    checkpoint = folder if folder.is_file() else chosen_checkpoint(folder, which)
    if checkpoint is None:
        files = sorted((folder / network).glob("*.safetensors")) or sorted(folder.glob("*.safetensors"))
        if not files:
            raise WrongWeights(f"{path} holds no {network}; give a folder that has it")
        return {name: tensor for file in files for name, tensor in read_file(file).items()}
    state = read_file(checkpoint).get("state_dict")
    if state is None:
        raise WrongWeights(f"{checkpoint} is not a checkpoint of a run: no 'state_dict' in it; give one `train` wrote")
    prefix = f"{network}."
    weights = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    if not weights:
        raise WrongWeights(f"{checkpoint} holds no {network}; it has {sorted({name.split('.')[0] for name in state})}")
    if SCALE in weights:
        return merged(network_weights(str(checkpoint.parents[1] / BASE), network) | weights)
    return weights


def require_weights(path: str, which: str | int = "last") -> None:
    """Raises: MissingWeights or WrongWeights, if there is nothing at `path` that `network_weights` could read."""
    folder = Path(path)
    if not (folder.is_file() or chosen_checkpoint(folder, which) or any(folder.glob("**/*.safetensors"))):
        raise MissingWeights(
            f"init_from={path}: no checkpoint, no export and no network there; give a run's folder, a .ckpt file or an "
            "export folder, or train the stage before, such as python -m lipsync_lightning.train +experiment=stage1"
        )
