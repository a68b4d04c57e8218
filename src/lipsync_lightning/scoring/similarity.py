"""Telling matching from foreign sound by a similarity threshold."""

import torch
from torch import Tensor


def matching_and_foreign(vision: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
    """Return the similarities (B,) of windows with their own sound, and with their neighbour's in the batch.

    The neighbour is the same clip at another time, or another clip: shifted and foreign sound.

    Args:
        vision, audio: (B, D) unit embeddings of matching windows.
    """
    return (vision * audio).sum(dim=1), (vision * audio.roll(1, dims=0)).sum(dim=1)


def best_threshold(matching: Tensor, foreign: Tensor) -> float:
    """Return the similarity threshold that separates matching from foreign pairs with the fewest errors.

    Args:
        matching, foreign: (P,) similarities; the midpoint between neighbouring values is taken.
    """
    values, order = torch.cat([matching, foreign]).sort()
    is_matching = torch.cat([torch.ones_like(matching), torch.zeros_like(foreign)])[order]
    # Cutting before index i calls i.. matching: errors are matching values below and foreign values from i on.
    matching_below = torch.cat([torch.zeros(1, device=values.device), is_matching.cumsum(0)])
    foreign_from = (1 - is_matching).sum() - torch.cat([torch.zeros(1, device=values.device), (1 - is_matching).cumsum(0)])
    inside_tie = torch.zeros(len(values) + 1, dtype=torch.bool, device=values.device)
    inside_tie[1:-1] = values[1:] == values[:-1]  # no threshold separates equal values
    cut = int((matching_below + foreign_from).masked_fill(inside_tie, torch.inf).argmin())
    edges = torch.cat([values[:1] - 1, values, values[-1:] + 1])
    return float((edges[cut] + edges[cut + 1]) / 2)


def pair_accuracy(matching: Tensor, foreign: Tensor, threshold: float) -> float:
    """Return the share of pairs, matching and foreign weighing the same, on the right side of `threshold`."""
    return float(((matching >= threshold).float().mean() + (foreign < threshold).float().mean()) / 2)
