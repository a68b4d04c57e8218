"""Weights read from a file somebody released, never running code that the file brings along."""

import codecs
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lipsync_lightning.errors import MissingWeights, WrongWeights

_CONTAINERS = ("state_dict", "model_state_dict", "module", "model")  # under which projects put the weights in a file
_LIGHTNING_MARK = "pytorch-lightning_version"
_NUM_SNIFFED = 512
_TORCH_BEGINS = (b"PK", b"\x80")  # a zip, or a pickle as torch wrote it before
_ANYWHERE = (b"<!doctype", b"<html")  # a comment may stand before them
_BEGINNINGS = (  # of files that are often saved under a checkpoint's name, and what they are
    (b"<!doctype", "a web page; the download answered with a page instead of the file"),
    (b"<html", "a web page; the download answered with a page instead of the file"),
    (b"<?xml", "an XML answer; the download answered with an error instead of the file"),
    (b'{"error', "an error answer of a server instead of the file"),
    (b"version https://git-lfs", "a Git LFS pointer; the file itself was not downloaded (git lfs pull)"),
)


def read_file(path: Path) -> dict[str, Any]:
    """Return what a checkpoint file holds: safetensors, or a torch file read with `weights_only=True`.

    Torch's own format is mapped into memory, so that a large file costs no more than what is used of it.
    Raises: MissingWeights, if there is no file; WrongWeights, naming what the file is instead of a checkpoint.
    """
    if not path.is_file():
        raise MissingWeights(f"no weights at {path}; give a file that exists")
    if path.suffix == ".safetensors" or _is_safetensors(path):
        return _safetensors(path)
    _refuse_known_strangers(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise WrongWeights(f"{path} is not a readable checkpoint: {_why_not_unpickled(error)}") from error
    except (
        RuntimeError,
        EOFError,
        LookupError,
        ValueError,
        OSError,
    ) as error:  # whichever a file of another kind provokes
        raise WrongWeights(
            f"{path} is not a readable checkpoint: {_why_unreadable(path, error)}; get it again"
        ) from error
    if not isinstance(content, dict):
        raise WrongWeights(f"{path} is not a readable checkpoint: it holds a {type(content).__name__}, no names")
    return content


def weights_of(content: Mapping[str, Any], path: object) -> dict[str, Tensor]:
    """Return the state dict in what a file holds, bare or in one of the usual wrappings.

    Raises: WrongWeights, if it is the checkpoint of a training run of this library, or holds no tensors.
    """
    if _LIGHTNING_MARK in content:
        raise WrongWeights(
            f"{path} is a checkpoint of a training run; make an export of it: python -m lipsync_lightning.export run=<run>"
        )
    found = [name for name in _CONTAINERS if _holds_tensors(content.get(name))]
    if len(found) > 1:
        raise WrongWeights(f"{path} holds several sets of weights, {found}; save the one you mean in a file of its own")
    if found:
        return dict(content[found[0]])
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WrongWeights(
            f"{path} holds no weights: {sorted(map(str, content))[:5]} are no tensors; give a checkpoint"
        )
    return tensors


def require_undamaged(path: Path) -> None:
    """Raises: WrongWeights, if what torch wrote into the file is not what it holds now. Reads all of it; `torch.load` compares nothing."""
    if path.is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise WrongWeights(
                f"{path} is damaged at {damaged}: its checksum is not the one that was written; get it again"
            )


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: the length of a header in JSON, and its brace."""
    with path.open("rb") as file:
        beginning = file.read(9)
    return (
        len(beginning) == 9 and beginning[8:] == b"{" and int.from_bytes(beginning[:8], "little") < path.stat().st_size
    )


def _holds_tensors(inside: object) -> bool:
    return isinstance(inside, Mapping) and any(isinstance(value, Tensor) for value in inside.values())


def _safetensors(path: Path) -> dict[str, Any]:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise WrongWeights(f"{path} is not a readable safetensors file: {error}; get it again") from error


def _refuse_known_strangers(path: Path) -> None:
    with path.open("rb") as file:
        beginning = file.read(_NUM_SNIFFED)
    refused = f"{path} is not a readable checkpoint: "
    if not beginning:
        raise WrongWeights(f"{refused}it is empty; get it again")
    text = beginning.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    for start, description in _BEGINNINGS:
        if text.startswith(start) or (start in _ANYWHERE and start in text):
            raise WrongWeights(f"{refused}it is {description}; get it again")
    if not beginning.startswith(_TORCH_BEGINS):
        kind = "a text file" if _is_text(beginning) else "no file that torch or safetensors wrote"
        raise WrongWeights(f"{refused}it is {kind}; give the file with the weights")


def _is_text(beginning: bytes) -> bool:
    try:
        return "\0" not in beginning.decode(errors="strict" if len(beginning) < _NUM_SNIFFED else "ignore")
    except UnicodeDecodeError:
        return False


def _why_unreadable(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        is_torch_format = file.read(2) == b"PK"
    if is_torch_format and not zipfile.is_zipfile(path):
        return (
            f"its end is missing after {path.stat().st_size} bytes, as if writing or downloading had been interrupted"
        )
    if "TorchScript" in str(error):
        return "it is a TorchScript archive, which holds code"
    return str(error).partition("\n")[0] or type(error).__name__


def _why_not_unpickled(error: Exception) -> str:
    unsupported = next((line.strip() for line in str(error).splitlines() if "Unsupported" in line), "")
    reason = f" ({unsupported.split('. ')[0].removeprefix('WeightsUnpickler error: ')})" if unsupported else ""
    return (
        f"it needs more than plain tensors{reason}, and reading it could run code that it brings along, so it is refused; "
        "ask its author for safetensors, or for plain tensors"
    )
