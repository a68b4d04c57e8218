"""SyncNet's default objective: every window's sound against every other window's."""

from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional


class ContrastiveObjective(nn.Module):
    """InfoNCE in both directions with a learnable temperature.

    A batch holds several windows of each clip, so negatives are both the same clip at other times and other clips.
    Source: CLIP (arXiv 2103.00020), section 2.3.
    """

    def __init__(self, *, initial_temperature: float, highest_scale: float = 100.0) -> None:
        """Args: highest_scale: the bound of 1/temperature (CLIP: 100), without which the loss can run away."""
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(initial_temperature).reciprocal().log())
        self.highest_scale = highest_scale

    def forward(self, vision: Tensor, audio: Tensor) -> Tensor:
        """Return the scalar loss of B matching pairs of unit embeddings, each (B, D); log(B) is chance."""
        similarity_BB = vision @ audio.T * self.log_scale.exp().clamp(max=self.highest_scale)
        target_B = torch.arange(len(vision), device=vision.device)
        return (
            functional.cross_entropy(similarity_BB, target_B) + functional.cross_entropy(similarity_BB.T, target_B)
        ) / 2

    def chance(self, num_pairs: int) -> float:
        """Return what it costs to guess which of `num_pairs` sounds belongs to which lips."""
        return log(num_pairs)
