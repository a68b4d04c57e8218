"""Telling matching from foreign sound by their similarity."""

from math import inf
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor


class Calibration(NamedTuple):
    """How a similarity becomes the probability of belonging together: sigmoid(scale * similarity + bias)."""

    scale: float
    bias: float

    @property
    def threshold(self) -> float:
        """The similarity of probability one half; infinity if none says anything."""
        return -self.bias / self.scale if self.scale else inf


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
        1 / (n + 2), which keep the scale finite where the pairs can be told apart without error.
    """
    similarity = torch.cat([matching, foreign]).double().cpu().numpy()
    is_matching = np.arange(len(similarity)) < len(matching)
    target = np.where(is_matching, (len(matching) + 1) / (len(matching) + 2), 1 / (len(foreign) + 2))
    weight = np.where(is_matching, 0.5 / len(matching), 0.5 / len(foreign))
    centre, spread = float(similarity.mean()), max(float(similarity.std()), 1e-6)
    standard = (similarity - centre) / spread

    def loss_and_gradient(solution: np.ndarray) -> tuple[float, np.ndarray]:
        logit = solution[0] * standard + solution[1]
        error = weight * (expit(logit) - target)
        return weight @ (np.logaddexp(0, logit) - target * logit), np.array([error @ standard, error.sum()])

    slope, bias = minimize(loss_and_gradient, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-9}).x.tolist()
    return Calibration(slope / spread, bias - slope / spread * centre)


def accuracy(matching: Tensor, foreign: Tensor) -> float:
    """Return the share of pairs on the right side of a threshold: of each half, that which the other half chooses.

    Args: matching, foreign: (P,) similarities, two or more, in the order of clips: halves share one clip at most.
    """
    halves = list(zip(matching.chunk(2), foreign.chunk(2), strict=True))
    is_right = []
    for chosen_by, judged in (halves, halves[::-1]):
        threshold = calibrated(*chosen_by).threshold
        is_right += [judged[0] >= threshold, judged[1] < threshold]
    return float(torch.cat(is_right).float().mean())


def best_offsets(vision: Tensor, audio_around: Tensor) -> Tensor:
    """Return how many frames early the best fitting sound comes, (B,), int64, -K to K; of equal ones the largest.

    Args:
        vision: (B, D) unit embeddings of windows.
        audio_around: (B, 2K+1, D) unit embeddings of the sound K frames before each window, ..., K frames after it.
    """
    # A matrix product would round to bfloat16 under autocast, and tie.
    similarity = (vision[:, None] * audio_around).sum(dim=2)
    return audio_around.shape[1] // 2 - similarity.argmax(dim=1)
