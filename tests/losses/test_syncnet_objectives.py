from math import log

import pytest
import torch
from torch.nn import functional

from lipsync_lightning.losses.syncnet_objectives import ContrastiveObjective, CrossEntropyObjective

EYE = torch.eye(8)


def contrastive(**more: float) -> ContrastiveObjective:
    return ContrastiveObjective(initial_temperature=0.07, **more)


def unit(*shape: int) -> torch.Tensor:
    return functional.normalize(torch.randn(*shape), dim=1)


def test_embeddings_that_say_nothing_cost_what_chance_costs():
    same = functional.normalize(torch.ones(8, 4), dim=1)
    assert contrastive()(same, same).item() == pytest.approx(contrastive().chance(8), abs=1e-5)
    assert contrastive().chance(8) == pytest.approx(log(8))
    vision, audio = torch.tensor([[1.0, 0.0]] * 4), torch.tensor([[0.5, 0.75**0.5]] * 4)
    assert CrossEntropyObjective()(vision, audio).item() == pytest.approx(log(2), abs=1e-6)
    assert CrossEntropyObjective().chance(4) == pytest.approx(log(2))


@pytest.mark.parametrize("objective", [contrastive(), CrossEntropyObjective()])
def test_matching_pairs_cost_nothing_and_shifted_ones_more_than_chance(objective):
    assert objective(EYE, EYE).item() < 0.01
    assert objective(EYE, EYE.roll(1, dims=0)).item() > objective.chance(8)


@pytest.mark.parametrize("objective", [contrastive(), CrossEntropyObjective()])
def test_the_gradient_reaches_both_embeddings_and_the_temperature(objective):
    vision, audio = unit(8, 5).abs().requires_grad_(), unit(8, 5).abs().requires_grad_()
    objective(vision, audio).backward()
    for learned in (vision, audio, *objective.parameters()):
        assert learned.grad is not None
        assert learned.grad.abs().sum() > 0


def test_contrast_is_the_cross_entropy_of_similarities_over_temperature_in_both_directions():
    vision, audio = unit(8, 5), unit(8, 5)
    scaled = vision @ audio.T / 0.07
    directions = [functional.cross_entropy(each, torch.arange(8)) for each in (scaled, scaled.T)]
    torch.testing.assert_close(contrastive()(vision, audio), sum(directions) / 2)


@pytest.mark.parametrize("stretch", [1 + 1e-6, 1.01])
def test_a_similarity_that_rounding_put_above_one_is_no_error_under_autocast_either(stretch):
    vision = torch.eye(4) * stretch
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            assert CrossEntropyObjective()(vision, vision @ torch.eye(4)).isfinite()
