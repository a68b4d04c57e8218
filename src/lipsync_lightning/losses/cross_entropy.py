"""SyncNet's published objective."""

from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional

from lipsync_lightning.evaluation.similarity import matching_and_foreign


class CrossEntropyObjective(nn.Module):
    """Binary cross-entropy on cosine similarity, matching and shifted pairs half and half.

    Each window's wrong sound is its neighbour's in the batch: the same clip at another time, or the next clip.
    Source: Wav2Lip (arXiv 2008.10010), section 3.1, as LatentSync uses it.
    """

    def forward(self, vision: Tensor, audio: Tensor) -> Tensor:
        """Return the scalar loss of B matching pairs of unit embeddings, each (B, D); log 2 = 0.69 is chance."""
        matching_B, shifted_B = matching_and_foreign(vision, audio)
        similarity = (
            torch.cat([matching_B, shifted_B]).float().clamp(0, 1)
        )  # rounding can leave [0, 1], where the loss raises
        target = torch.cat([torch.ones_like(matching_B), torch.zeros_like(shifted_B)]).float()
        with torch.autocast(similarity.device.type, enabled=False):  # binary_cross_entropy refuses autocast
            return functional.binary_cross_entropy(similarity, target)

    def chance(self, num_pairs: int) -> float:
        """Return what it costs to call every pair as likely matching as not: log 2, of however many pairs."""
        return log(2)
