from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import dropout

from lipsync_lightning.callbacks.seed_steps import SeedSteps


def drawn(*, seed: int = 1, rank: int = 0, step: int = 5, batch_idx: int = 5, accumulate: int = 1) -> Tensor:
    trainer: Any = SimpleNamespace(accumulate_grad_batches=accumulate, global_rank=rank, global_step=step)
    SeedSteps(seed=seed).on_train_batch_start(trainer, None, None, batch_idx)  # pyright: ignore[reportArgumentType]
    return dropout(torch.ones(1000), 0.5)


def test_a_step_drops_the_same_units_whatever_was_drawn_before():
    first = drawn()
    torch.rand(17)
    assert torch.equal(drawn(), first)


@pytest.mark.parametrize(
    "other",
    [{"seed": 2}, {"rank": 1}, {"step": 6}, {"batch_idx": 11, "accumulate": 2}],
    ids=["another seed", "another rank", "the next step", "the next batch of an accumulated step"],
)
def test_what_is_dropped_differs_with(other: dict[str, int]):
    one, two = drawn(), drawn(**other)
    assert not torch.equal(one, two)
    assert torch.corrcoef(torch.stack([one, two]))[0, 1].abs() < 0.15
