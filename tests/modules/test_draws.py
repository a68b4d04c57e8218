import pytest
import torch

from lipsync_lightning.modules.draws import ClipDraws

SEEDS = torch.tensor([3, 1 << 61, 7, 8])


@pytest.mark.parametrize(
    "draw", [lambda draws: draws.normal((2, 3)), lambda draws: draws.integers(1000), lambda draws: draws.uniform()]
)
def test_a_clip_draws_the_same_in_any_batch_and_another_clip_something_else(draw):
    whole = draw(ClipDraws(SEEDS, "cpu"))
    assert torch.equal(whole[[2, 1]], draw(ClipDraws(SEEDS[[2, 1]], "cpu")))
    assert len({tuple(row.flatten().tolist()) for row in whole}) == len(SEEDS)


def test_draws_of_a_clip_go_on_instead_of_repeating():
    draws = ClipDraws(SEEDS, "cpu")
    assert not torch.equal(draws.normal((5,)), draws.normal((5,)))


def test_values_lie_where_they_should():
    draws = ClipDraws(torch.arange(500), "cpu")
    normal, integers, uniform = draws.normal((40,)), draws.integers(10), draws.uniform()
    assert normal.mean().item() == pytest.approx(0, abs=0.03)
    assert normal.var().item() == pytest.approx(1, abs=0.03)
    assert set(integers.tolist()) == set(range(10))
    assert 0 <= uniform.min() < 0.01 < 0.99 < uniform.max() < 1
