"""Random numbers that belong to a clip, not to a batch: the same on any number of GPUs, before and after a restart."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class ClipRNG:
    """Draws for the B clips of a batch, each from generators of its own.

    Noise is drawn on the device. What a step decides by, timesteps and dropped sound, is drawn on the host: it is the
    same on every device, and no decision waits for a GPU.
    """

    def __init__(self, seeds: Tensor, device: torch.device | str) -> None:
        """Args: seeds: (B,), int64, on the host."""
        self.device = device
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds.tolist()]
        self._of_host = [np.random.default_rng(seed) for seed in seeds.tolist()]

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Return (B, *shape), float32, standard normal."""
        return torch.stack([torch.randn(*shape, generator=own, device=self.device) for own in self.generators])

    def timesteps(self, density: np.ndarray) -> np.ndarray:
        """Return (B,), int64, each as often as its place in `density` (T,), of sum 1, says."""
        return np.array([own.choice(len(density), p=density) for own in self._of_host])

    def uniform(self) -> np.ndarray:
        """Return (B,) in [0, 1)."""
        return np.array([own.random() for own in self._of_host])

    def on_device(self, drawn: np.ndarray) -> Tensor:
        """Return what was drawn on the host as a tensor of the device, without waiting for it."""
        return torch.from_numpy(drawn).to(self.device, non_blocking=True)
