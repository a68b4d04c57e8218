import pytest
import torch

from lipsync_lightning.scoring.similarity import best_threshold, matching_and_foreign, pair_accuracy


def num_errors(matching: torch.Tensor, foreign: torch.Tensor, threshold: float) -> int:
    return int((matching < threshold).sum() + (foreign >= threshold).sum())


def fewest_errors(matching: torch.Tensor, foreign: torch.Tensor) -> int:
    """By brute force: a threshold at every value, and one above all."""
    thresholds = [*matching.tolist(), *foreign.tolist(), 9.0]
    return min(num_errors(matching, foreign, threshold) for threshold in thresholds)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("num_levels", [3, 1000])
def test_no_threshold_makes_fewer_errors(seed, num_levels):
    generator = torch.Generator().manual_seed(seed)
    matching = torch.randint(num_levels, (1 + seed,), generator=generator) / num_levels
    foreign = torch.randint(num_levels, (7,), generator=generator) / num_levels - 0.2 * (seed % 3 - 1)
    assert num_errors(matching, foreign, best_threshold(matching, foreign)) == fewest_errors(matching, foreign)


def test_the_threshold_lies_in_the_middle_of_a_gap():
    assert best_threshold(torch.tensor([0.8, 0.9]), torch.tensor([0.1, 0.4])) == pytest.approx(0.6)


def test_accuracy_weighs_matching_and_foreign_pairs_the_same():
    assert pair_accuracy(torch.tensor([0.9, 0.1]), torch.tensor([0.2, 0.2, 0.2, 0.2]), 0.5) == 0.75


def test_foreign_sound_is_the_neighbours():
    vision, audio = torch.eye(3), torch.eye(3)[[1, 1, 2]]
    matching, foreign = matching_and_foreign(vision, audio)
    assert matching.tolist() == [0.0, 1.0, 1.0]
    assert foreign.tolist() == [0.0, 1.0, 0.0]
