"""Random numbers that belong to a clip, not to a batch: the same on any number of GPUs, before and after a restart."""

from collections.abc import Sequence

import torch
from torch import Tensor


class ClipRNG:
    """Draws for the B clips of a batch, each from a generator of its own."""

    def __init__(self, seeds: Tensor, device: torch.device | str) -> None:
        """Args: seeds: (B,), int64."""
        self.device = device
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds.tolist()]

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Return (B, *shape), float32, standard normal."""
        return torch.stack([torch.randn(*shape, generator=own, device=self.device) for own in self.generators])

    def integers(self, high: int) -> Tensor:
        """Return (B,), int64 from 0 to `high` - 1."""
        return torch.cat([torch.randint(high, (1,), generator=own, device=self.device) for own in self.generators])

    def uniform(self) -> Tensor:
        """Return (B,) in [0, 1)."""
        return torch.cat([torch.rand(1, generator=own, device=self.device) for own in self.generators])
