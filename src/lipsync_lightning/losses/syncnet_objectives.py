"""What SyncNet learns from: every window's sound against the others', or against one other's."""

from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional

from lipsync_lightning.losses.similarity import matching_and_foreign


class ContrastiveObjective(nn.Module):
    """InfoNCE in both directions with a learnable temperature: the default.

    A batch holds several windows of each clip, so negatives are both the same clip at other times and other clips.
    Source: CLIP (arXiv 2103.00020), section 2.3.
    """

    def __init__(self, *, initial_temperature: float = 0.07, highest_scale: float = 100.0) -> None:
        """Args: highest_scale: the bound of 1/temperature (CLIP: 100), without which the loss can run away."""
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(initial_temperature).reciprocal().log())
        self.highest_scale = highest_scale

    def forward(self, vision: Tensor, audio: Tensor) -> Tensor:
        """Return the scalar loss of B matching pairs of unit embeddings, each (B, D)."""
        with torch.autocast(vision.device.type, enabled=False):  # at a scale of 100, bf16's third digit is all
            similarity_BB = vision.float() @ audio.float().T * self.log_scale.exp().clamp(max=self.highest_scale)
        own_B = torch.arange(len(vision), device=vision.device)
        return (functional.cross_entropy(similarity_BB, own_B) + functional.cross_entropy(similarity_BB.T, own_B)) / 2

    def chance(self, num_pairs: int) -> float:
        """Return what it costs to guess which of `num_pairs` sounds belongs to which lips."""
        return log(num_pairs)


class CrossEntropyObjective(nn.Module):
    """Binary cross-entropy on cosine similarity, matching and shifted pairs half and half: the published objective.

    Each window's wrong sound is its neighbour's in the batch: the same clip at another time, or the next clip.
    Source: Wav2Lip (arXiv 2008.10010), section 3.1, as LatentSync uses it.
    """

    def forward(self, vision: Tensor, audio: Tensor) -> Tensor:
        """Return the scalar loss of B matching pairs of unit embeddings, each (B, D)."""
        matching_B, shifted_B = matching_and_foreign(vision, audio)
        target = torch.cat([torch.ones_like(matching_B), torch.zeros_like(shifted_B)]).float()
        # Rounding can leave [0, 1], where the loss raises.
        similarity = torch.cat([matching_B, shifted_B]).float().clamp(0, 1)
        with torch.autocast(similarity.device.type, enabled=False):  # binary_cross_entropy refuses autocast
            return functional.binary_cross_entropy(similarity, target)

    def chance(self, num_pairs: int) -> float:
        """Return what it costs to call every pair as likely matching as not, of however many pairs."""
        return log(2)
