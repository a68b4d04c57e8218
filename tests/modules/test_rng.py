import numpy as np
import pytest
import torch

from lipsync_lightning.modules.rng import ClipRNG

SEEDS = torch.tensor([3, 1 << 61, 7, 8])


@pytest.mark.parametrize(
    "draw", [lambda rng: rng.normal((2, 3)), lambda rng: rng.timesteps(np.full(1000, 1e-3)), ClipRNG.uniform]
)
def test_a_clip_draws_the_same_in_any_batch_and_another_clip_something_else(draw):
    whole = draw(ClipRNG(SEEDS, "cpu"))
    assert bool((whole[[2, 1]] == draw(ClipRNG(SEEDS[[2, 1]], "cpu"))).all())
    assert len({tuple(row.flatten().tolist()) for row in whole}) == len(SEEDS)


def test_draws_of_a_clip_go_on_instead_of_repeating():
    rng = ClipRNG(SEEDS, "cpu")
    assert not torch.equal(rng.normal((5,)), rng.normal((5,)))
