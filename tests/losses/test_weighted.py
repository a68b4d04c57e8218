import pytest
import torch
from torch import nn

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.losses.weighted import WeightedLoss, WeightedLosses


def mean_square(weight: float) -> WeightedLoss:
    return WeightedLoss(weight=weight, loss=nn.MSELoss())


def never() -> tuple[torch.Tensor, ...]:
    raise AssertionError("nobody reads this")


def one_and_zero() -> tuple[torch.Tensor, ...]:
    return torch.ones(3), torch.zeros(3)


def two_and_zero() -> tuple[torch.Tensor, ...]:
    return torch.full((3,), 2.0), torch.zeros(3)


def test_the_total_is_the_weighted_sum_and_the_terms_are_given_without_weights():
    losses = WeightedLosses(terms={"noise": mean_square(0.5), "sync": mean_square(3.0)})
    total, terms = losses({"noise": one_and_zero, "sync": two_and_zero})
    assert total.item() == 0.5 * 1 + 3 * 4
    assert {name: value.item() for name, value in terms.items()} == {"noise": 1.0, "sync": 4.0}


def test_inputs_of_an_absent_term_are_never_computed():
    total, terms = WeightedLosses(terms={"noise": mean_square(1.0)})({"noise": one_and_zero, "sync": never})
    assert total.item() == 1.0
    assert set(terms) == {"noise"}


def test_a_term_set_to_null_is_gone_with_its_network():
    losses = WeightedLosses(terms={"noise": mean_square(1.0), "trepa": None})
    assert [name for name, _ in losses.terms.named_children()] == ["noise"]
    assert losses({"noise": one_and_zero, "trepa": never})[0].item() == 1.0


def test_a_term_nobody_serves_is_refused_by_name():
    with pytest.raises(BadConfig, match=r"\['lips'\]; this module serves \['noise'\]"):
        WeightedLosses(terms={"lips": mean_square(1.0)})({"noise": one_and_zero})
