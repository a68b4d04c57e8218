"""Telling matching from foreign sound by their similarity."""

from typing import NamedTuple

import torch
from torch import Tensor

_NEWTON_STEPS = 50
_DAMPING = 1e-9


class Calibration(NamedTuple):
    """How a similarity becomes the probability of belonging together: sigmoid(scale * similarity + bias)."""

    scale: float
    bias: float

    @property
    def threshold(self) -> float:
        """The similarity of probability one half."""
        return -self.bias / self.scale


def matching_and_foreign(vision: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
    """Return the similarities (B,) of windows with their own sound, and with their neighbour's in the batch.

    The neighbour is the same clip at another time, or another clip: shifted and foreign sound.

    Args: vision, audio: (B, D) unit embeddings of matching windows.
    """
    return (vision * audio).sum(dim=1), (vision * audio.roll(1, dims=0)).sum(dim=1)


def calibrated(matching: Tensor, foreign: Tensor) -> Calibration:
    """Return the calibration under which the pairs are likeliest, matching and foreign weighing the same.

    Args: matching, foreign: (P,) and (Q,) similarities, at least one of each.
    Source: Platt, Probabilistic Outputs for Support Vector Machines (1999), with its targets (n + 1) / (n + 2) and
        1 / (n + 2), which keep the scale finite where the pairs can be told apart without error. Newton's method.
    """
    num_matching, num_foreign = len(matching), len(foreign)
    similarity = torch.cat([matching, foreign]).double()
    is_matching = torch.arange(len(similarity), device=similarity.device) < num_matching
    target = torch.where(is_matching, (num_matching + 1) / (num_matching + 2), 1 / (num_foreign + 2)).double()
    weight = torch.where(is_matching, 0.5 / num_matching, 0.5 / num_foreign).double()
    centre, spread = similarity.mean(), similarity.std(correction=0).clamp(min=1e-6)
    features = torch.stack([(similarity - centre) / spread, torch.ones_like(similarity)], dim=1)
    damping = _DAMPING * torch.eye(2, dtype=torch.float64, device=similarity.device)
    solution = torch.zeros(2, dtype=torch.float64, device=similarity.device)
    for _ in range(_NEWTON_STEPS):
        probability = torch.sigmoid(features @ solution)
        gradient = features.T @ (weight * (probability - target))
        curvature = features.T @ (features * (weight * probability * (1 - probability))[:, None])
        step = torch.linalg.solve(curvature + damping, gradient)
        solution = solution - step * min(1.0, 2.0 / float(step.norm() + 1e-12))
    scale = float(solution[0] / spread)
    return Calibration(scale, float(solution[1]) - scale * float(centre))


def best_offsets(vision: Tensor, audio_around: Tensor) -> Tensor:
    """Return how many frames early the best fitting sound comes, (B,), int64, -K to K; of equal ones the largest.

    Args:
        vision: (B, D) unit embeddings of windows.
        audio_around: (B, 2K+1, D) unit embeddings of the sound K frames before each window, ..., K frames after it.
    """
    # A matrix product would round to bfloat16 under autocast, and tie.
    similarity = (vision[:, None] * audio_around).sum(dim=2)
    return audio_around.shape[1] // 2 - similarity.argmax(dim=1)
