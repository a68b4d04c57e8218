"""LPIPS networks, by which `losses.trepa.PerceptualLoss` compares frames."""

import warnings
from functools import partial
from typing import Any

import lpips
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lipsync_lightning.errors import WrongWeights
from lipsync_lightning.models.released import FETCH_ALL, released_file


class LPIPSInPieces(lpips.LPIPS):
    """LPIPS of pictures (N, 3, H, W) in [-1, 1], a few pairs at a time, which bounds memory and nothing else."""

    _supports_gradient_checkpointing = True
    gradient_checkpointing = False
    pixels_at_a_time = 16 * 128 * 256

    def enable_gradient_checkpointing(self) -> None:
        """Compute each piece again in backward instead of keeping what it computes."""
        self.gradient_checkpointing = True

    def forward(self, in0: Tensor, in1: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the distance of each pair, (N, 1, 1, 1)."""
        distance: Any = super().forward
        if self.gradient_checkpointing and torch.is_grad_enabled():
            distance = partial(checkpoint, distance, use_reentrant=False)
        num_pairs = max(1, self.pixels_at_a_time // in0[0, 0].numel())
        return torch.cat([distance(*pair) for pair in zip(in0.split(num_pairs), in1.split(num_pairs), strict=True)])


def untrained_lpips() -> LPIPSInPieces:
    """Return LPIPS on a randomly initialised VGG-16: needs no download; its features still see edges and texture."""
    with warnings.catch_warnings(action="ignore"):  # lpips calls torchvision as it was called years ago
        return LPIPSInPieces(net="vgg", pnet_rand=True, verbose=False)


def vgg_lpips(*, path: str) -> nn.Module:
    """Return LPIPS on torchvision's VGG-16, from `vgg16-397923af.pth`. Raises: MissingWeights, WrongWeights."""
    released = released_file(path, get_with=FETCH_ALL)
    metric = untrained_lpips()
    # LPIPS calls torchvision's `features.5.weight` `slice2.5.weight`.
    names = {name: "features." + name.split(".", 1)[1] for name in metric.net.state_dict()}
    missing = sorted(set(names.values()) - set(released))
    if missing:
        raise WrongWeights(f"{path} is not torchvision's VGG-16: it lacks {len(missing)} weights, such as {missing[0]}")
    metric.net.load_state_dict({name: released[original] for name, original in names.items()})
    return metric
