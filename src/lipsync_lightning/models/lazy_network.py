"""Judges for other processes: they are sent without their network, and load it at their first judgement."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Generic

import torch

from lipsync_lightning.files import sha256_of
from lipsync_lightning.models.weights_io import Network


class LazyNetwork(ABC, Generic[Network]):
    """Holds settings until `network` is first asked for; a pickled copy holds settings again."""

    def __init__(self, *, device: str) -> None:
        """Args: device: for torch; `auto` for a GPU where the process that judges has one, else its CPU."""
        self.wanted_device = device

    @cached_property
    def device(self) -> str:
        """Where this process judges: it may be another machine than the one that was configured."""
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
        return {name: value for name, value in self.__dict__.items() if name not in ("network", "device")}


def version_by_content(name: str, path: str) -> str:
    """Return `name:` and 16 hex digits of the content of a file, or of the networks in a folder.

    It is `name:missing` if there is neither, so that what is not yet downloaded can be configured.
    """
    place = Path(path)
    files = [place] if place.is_file() else [*sorted(place.glob("*.json")), *sorted(place.glob("*.safetensors"))]
    hashes = [sha256_of(file) for file in files]
    if not hashes:
        return f"{name}:missing"
    return f"{name}:{(hashes[0] if place.is_file() else sha256(''.join(hashes).encode()).hexdigest())[:16]}"


@contextmanager
def judging() -> Iterator[None]:
    """Compute without gradients, on a GPU always by the same algorithm in full float32: no clip may pass by chance."""
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.no_grad(), exact:
        yield
