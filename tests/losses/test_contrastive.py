from math import log

import pytest
import torch
from torch.nn import functional

from lipsync_lightning.losses.contrastive import ContrastiveObjective

EYE = torch.eye(8)


def objective(**more: float) -> ContrastiveObjective:
    return ContrastiveObjective(initial_temperature=0.07, **more)


def test_embeddings_that_say_nothing_cost_log_of_the_batch():
    same = functional.normalize(torch.ones(8, 4), dim=1)
    assert objective()(same, same).item() == pytest.approx(log(8), abs=1e-5)
    assert objective().chance(8) == pytest.approx(log(8))


def test_matching_pairs_cost_less_than_shuffled_ones():
    matching, shuffled = objective()(EYE, EYE), objective()(EYE, EYE.roll(1, dims=0))
    assert matching.item() < 0.01
    assert shuffled.item() > log(8)


def test_both_directions_count_the_same():
    vision, audio = (functional.normalize(torch.randn(8, 5), dim=1) for _ in range(2))
    torch.testing.assert_close(objective()(vision, audio), objective()(audio, vision))


def test_the_initial_temperature_divides_similarities():
    vision, audio = (functional.normalize(torch.randn(8, 5), dim=1) for _ in range(2))
    scaled = vision @ audio.T / 0.07
    expected = (
        functional.cross_entropy(scaled, torch.arange(8)) + functional.cross_entropy(scaled.T, torch.arange(8))
    ) / 2
    torch.testing.assert_close(objective()(vision, audio), expected)


def test_the_gradient_reaches_embeddings_and_temperature():
    loss = objective()
    vision = functional.normalize(torch.randn(8, 5), dim=1).requires_grad_()
    loss(vision, EYE[:, :5]).backward()
    assert vision.grad is not None
    assert vision.grad.abs().min() > 0
    assert loss.log_scale.grad is not None
    assert loss.log_scale.grad.abs() > 0


def test_a_scale_that_runs_away_is_held():
    vision, audio = (functional.normalize(torch.randn(8, 5), dim=1) for _ in range(2))
    loss = objective(highest_scale=100.0)
    with torch.no_grad():
        loss.log_scale.fill_(50.0)
    torch.testing.assert_close(loss(vision, audio), ContrastiveObjective(initial_temperature=0.01)(vision, audio))
