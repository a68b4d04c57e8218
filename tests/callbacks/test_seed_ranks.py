"""Random numbers that belong to a rank and a step."""

from types import SimpleNamespace

import torch

from lipsync_lightning.callbacks.seed_ranks import SeedRanks


def draws(rank: int, step: int, seed: int = 1) -> torch.Tensor:
    SeedRanks(seed=seed).on_train_start(SimpleNamespace(global_rank=rank, global_step=step), None)  # pyright: ignore[reportArgumentType]
    return torch.randn(8)


def test_ranks_resumes_and_seeds_draw_different_noise_and_the_same_ones_the_same():
    torch.testing.assert_close(draws(0, 0), draws(0, 0))
    for other in (draws(1, 0), draws(0, 100), draws(0, 0, seed=2)):
        assert not torch.allclose(draws(0, 0), other)
