"""Telling matching from foreign sound by their similarity."""

from typing import NamedTuple

import torch
from torch import Tensor

_NEWTON_STEPS = 50
_DAMPING = 1e-9
_SAME_OFFSET = 1  # frames: lips and sound this near cannot be told from lips and sound in step


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


def best_threshold(matching: Tensor, foreign: Tensor) -> float:
    """Return the similarity threshold that separates matching (P,) from foreign (Q,) pairs with the fewest errors.

    It is the midpoint between neighbouring values.
    """
    values, order = torch.cat([matching, foreign]).sort()
    is_matching = torch.cat([torch.ones_like(matching), torch.zeros_like(foreign)])[order]
    # Cutting before index i calls i.. matching: errors are matching values below and foreign values from i on.
    none = torch.zeros(1, device=values.device)
    matching_below = torch.cat([none, is_matching.cumsum(0)])
    foreign_from = len(foreign) - torch.cat([none, (1 - is_matching).cumsum(0)])
    inside_tie = torch.zeros(len(values) + 1, dtype=torch.bool, device=values.device)
    inside_tie[1:-1] = values[1:] == values[:-1]  # no threshold separates equal values
    cut = int((matching_below + foreign_from).masked_fill(inside_tie, torch.inf).argmin())
    edges = torch.cat([values[:1] - 1, values, values[-1:] + 1])
    return float((edges[cut] + edges[cut + 1]) / 2)


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


def pair_accuracy(matching: Tensor, foreign: Tensor, threshold: float) -> float:
    """Return the share of pairs, matching and foreign weighing the same, on the right side of `threshold`."""
    return float(((matching >= threshold).float().mean() + (foreign < threshold).float().mean()) / 2)


def best_offsets(vision: Tensor, audio_around: Tensor) -> Tensor:
    """Return how many frames early the best fitting sound comes, (B,), int64, -K to K; of equal ones the largest.

    Args:
        vision: (B, D) unit embeddings of windows.
        audio_around: (B, 2K+1, D) unit embeddings of the sound K frames before each window, ..., K frames after it.
    """
    # A matrix product would round to bfloat16 under autocast, and tie.
    similarity = (vision[:, None] * audio_around).sum(dim=2)
    return audio_around.shape[1] // 2 - similarity.argmax(dim=1)


def offset_accuracy(offsets: Tensor) -> float:
    """Return how often a best offset (B,) is 0 or 1 frame to either side: by chance, of -5 to 5, in 3 of 11 cases."""
    return float((offsets.abs() <= _SAME_OFFSET).float().mean())
