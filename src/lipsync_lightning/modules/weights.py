"""Weights of a former run, as the start of a new one: `init_from`."""

import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lipsync_lightning.errors import MissingWeights, WrongWeights
from lipsync_lightning.models.weights_io import read_file

RUN_CONFIG = "config.yaml"  # in a run's folder: the configuration it was trained with
CHECKPOINTS = "checkpoints"  # folder of a run that holds its checkpoints


def checkpoints_of(run_dir: Path) -> list[Path]:
    """Return the checkpoints in a run's folder, the highest step first."""
    return sorted((run_dir / CHECKPOINTS).glob("step_*.ckpt"), reverse=True)


def newest_checkpoint(run_dir: Path) -> Path | None:
    """Return the checkpoint with the highest step in a run's folder, or None."""
    return next(iter(checkpoints_of(run_dir)), None)


def newest_readable_checkpoint(run_dir: Path) -> Path | None:
    """Return the newest checkpoint that can be read, or None where there never was one. Those that cannot are set aside, with a warning.

    Raises: WrongWeights, if none of those there can be read.
    """
    found = checkpoints_of(run_dir)
    broken: list[Path] = []
    for checkpoint in found:
        try:
            read_file(checkpoint)
        except WrongWeights as error:
            cause = str(error).partition(": ")[2].partition(";")[0] or str(error)
            warnings.warn(f"{checkpoint} cannot be read ({cause})", stacklevel=2)
            broken.append(checkpoint)
        except MissingWeights:
            continue  # another rank has set it aside
        else:
            _set_aside(broken)
            return checkpoint
    if broken:
        raise WrongWeights(
            f"none of the {len(broken)} checkpoints in {broken[0].parent} can be read; start anew with another run_dir="
        )
    return None


def _set_aside(broken: Sequence[Path]) -> None:
    """Rename checkpoints that cannot be read: under their own names they would count among the newest, for which good ones are deleted."""
    for checkpoint in broken:
        aside = checkpoint.with_suffix(".ckpt.broken")
        with suppress(FileNotFoundError):  # another rank was faster
            checkpoint.rename(aside)
        warnings.warn(
            f"{checkpoint.name} is set aside as {aside.name}; the checkpoint before it is taken", stacklevel=3
        )


def network_weights(path: str, network: str) -> dict[str, Tensor]:
    """Return the state dict of one network, by its own names.

    Args:
        path: a checkpoint file, a run's folder, an export folder, or a folder that holds this network alone.
        network: the network's attribute in its module, and its subfolder in an export, such as `unet`.
    Raises: MissingWeights, if there is nothing of the kind at `path`; WrongWeights, if it cannot be read.
    """
    folder = Path(path)
    checkpoint = folder if folder.is_file() else newest_checkpoint(folder)
    if checkpoint is not None:
        return _from_checkpoint(checkpoint, network)
    for candidate in (folder / network, folder):
        files = sorted(candidate.glob("*.safetensors"))
        if files:
            return _from_safetensors(files)
    raise _nothing_at(path)


def require_weights(path: str) -> None:
    """Raises: MissingWeights, if there is nothing at `path` that `network_weights` could read."""
    folder = Path(path)
    if not (folder.is_file() or newest_checkpoint(folder) or any(folder.glob("**/*.safetensors"))):
        raise _nothing_at(path)


def save_networks(module: nn.Module, run_dir: Path, names: Sequence[str]) -> None:
    """Save the named networks of a trained module, diffusers models, each as `run_dir/<name>` for `from_pretrained`."""
    for name in names:
        getattr(module, name).save_pretrained(run_dir / name)


def _nothing_at(path: str) -> MissingWeights:
    return MissingWeights(
        f"init_from={path}: no checkpoint, no export and no network there; give a run's folder, a .ckpt file or an export folder, "
        "or train the stage before, such as python -m lipsync_lightning.train +experiment=stage1"
    )


def _from_safetensors(files: list[Path]) -> dict[str, Tensor]:
    try:
        return {name: tensor for file in files for name, tensor in load_file(file).items()}
    except SafetensorError as error:
        raise WrongWeights(f"{files[0].parent} holds broken weights: {error}; make or copy them again") from error


def _from_checkpoint(path: Path, network: str) -> dict[str, Tensor]:
    checkpoint = read_file(path)
    if "state_dict" not in checkpoint:
        raise WrongWeights(
            f"{path} is not a checkpoint of a training run: no 'state_dict' in it; give one that `train` wrote"
        )
    state = checkpoint["state_dict"]
    prefix = f"{network}."
    weights = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    if not weights:
        raise WrongWeights(f"{path} holds no {network}; it has {sorted({name.split('.')[0] for name in state})}")
    return weights
