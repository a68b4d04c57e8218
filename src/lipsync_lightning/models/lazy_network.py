"""Judges that travel to other processes: they are sent with their settings only, and each loads its network at its first judgement."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)

_OF_THIS_PROCESS = ("network", "device")
_VERSION_DIGITS = 16


class LazyNetwork(ABC, Generic[Network]):
    """Holds settings until `network` is first asked for; a pickled copy holds settings again."""

    def __init__(self, *, device: str) -> None:
        """Args: device: for torch; `auto` for a GPU where the process that judges has one, else its CPU."""
        self.wanted_device = device

    @cached_property
    def device(self) -> str:
        """Where this process judges, chosen when it first asks: it may be another machine than the one that was configured."""
        if self.wanted_device != "auto":
            return self.wanted_device
        return "cuda" if torch.cuda.is_available() else "cpu"

    @abstractmethod
    def load(self) -> Network:
        """Return the frozen network, in eval mode. Raises: MissingWeights, WrongWeights."""

    @cached_property
    def network(self) -> Network:
        """The frozen network on `device`, loaded once. Raises: MissingWeights, WrongWeights."""
        return self.load().to(self.device)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _OF_THIS_PROCESS}


def version_by_content(name: str, path: str) -> str:
    """Return `name:` and 16 hex digits that another content changes: of a file, or of the networks in a folder. Of a path with neither,
    `name:missing`, so that what is not yet downloaded can be configured.

    In a folder those are the `.json`, `.safetensors` and `.bin` files.
    """
    place = Path(path)
    if place.is_file():
        return f"{name}:{_sha256(place).hex()[:_VERSION_DIGITS]}"
    files = sorted(file for file in place.glob("*") if file.suffix in {".json", ".safetensors", ".bin"})
    if not files:
        return f"{name}:missing"
    return f"{name}:{hashlib.sha256(b''.join(map(_sha256, files))).hexdigest()[:_VERSION_DIGITS]}"


def _sha256(path: Path) -> bytes:
    status = path.stat()
    return _sha256_as_of(path.resolve(), status.st_size, status.st_mtime_ns)


@lru_cache
def _sha256_as_of(path: Path, size: int, mtime_ns: int) -> bytes:
    """Versions are asked for with every clip: a file is read again only if its size or time is another."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@contextmanager
def judging() -> Iterator[None]:
    """Compute without gradients, and on a GPU always by the same algorithm, in full single precision: a clip must not pass by chance."""
    with (
        torch.no_grad(),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    ):
        yield
