from math import log

import pytest
import torch
from torch.nn import functional

from lipsync_lightning.losses.cross_entropy import CrossEntropyObjective


def test_a_similarity_of_one_half_everywhere_costs_log_two():
    vision = torch.tensor([[1.0, 0.0]] * 4)
    audio = torch.tensor([[0.5, 0.75**0.5]] * 4)
    assert CrossEntropyObjective()(vision, audio).item() == pytest.approx(log(2), abs=1e-6)
    assert CrossEntropyObjective().chance(4) == pytest.approx(log(2))


def test_matching_pairs_that_agree_and_shifted_ones_that_do_not_cost_nothing():
    assert CrossEntropyObjective()(torch.eye(4), torch.eye(4)).item() == pytest.approx(0.0, abs=1e-6)


def test_shifted_sound_costs_more_than_matching_sound():
    vision = functional.normalize(torch.rand(8, 16), dim=1)
    assert CrossEntropyObjective()(vision, vision) < CrossEntropyObjective()(vision, vision.roll(1, dims=0))


@pytest.mark.parametrize("stretch", [1 + 1e-6, 1.01])
def test_a_similarity_that_rounding_put_above_one_is_no_error(stretch):
    vision = torch.eye(4) * stretch
    assert CrossEntropyObjective()(vision, vision).isfinite()


def test_it_works_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        vision = functional.normalize(torch.nn.Linear(4, 4)(torch.rand(4, 4)), dim=1).abs()
        assert CrossEntropyObjective()(vision, vision).isfinite()


def test_the_gradient_reaches_both_embeddings():
    vision, audio = (functional.normalize(torch.rand(4, 8), dim=1).requires_grad_() for _ in range(2))
    CrossEntropyObjective()(vision, audio).backward()
    for embedding in (vision, audio):
        assert embedding.grad is not None
        assert embedding.grad.abs().sum() > 0
