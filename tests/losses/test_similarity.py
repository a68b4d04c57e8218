from math import inf

import pytest
import torch

from lipsync_lightning.losses.similarity import accuracy, best_offsets, calibrated, matching_and_foreign


def test_foreign_sound_is_the_neighbours():
    vision, audio = torch.eye(3), torch.eye(3)[[1, 1, 2]]
    matching, foreign = matching_and_foreign(vision, audio)
    assert matching.tolist() == [0.0, 1.0, 1.0]
    assert foreign.tolist() == [0.0, 1.0, 0.0]


def pairs(separation: float, count: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    matching, foreign = (0.1 * torch.randn(count, generator=generator) for _ in range(2))
    return matching + 0.5 + separation, foreign + 0.5 - separation


def test_calibrated_probabilities_are_how_often_it_is_so():
    matching, foreign = pairs(0.05)
    scale, bias = calibrated(matching, foreign)
    similarity = torch.cat([matching, foreign])
    belongs = torch.cat([torch.ones_like(matching), torch.zeros_like(foreign)])
    probability = torch.sigmoid(scale * similarity + bias)
    for low in (0.1, 0.3, 0.5, 0.7):
        inside = (probability >= low) & (probability < low + 0.2)
        assert belongs[inside].mean().item() == pytest.approx(low + 0.1, abs=0.05)


@pytest.mark.parametrize("separation", [0.02, 0.1, 1.0])
def test_the_calibrated_threshold_lies_between_the_two_kinds(separation):
    assert calibrated(*pairs(separation)).threshold == pytest.approx(0.5, abs=0.02)


def test_pairs_that_never_mix_give_a_finite_scale_and_few_pairs_are_enough():
    scale, bias = calibrated(torch.tensor([0.9]), torch.tensor([0.1]))
    assert 0 < scale < 100
    assert torch.sigmoid(torch.tensor(scale * 0.9 + bias)).item() == pytest.approx(2 / 3, abs=0.01)


def test_of_pairs_that_all_agree_none_decides():
    assert calibrated(torch.ones(3), torch.ones(3)).threshold == inf


@pytest.mark.parametrize(("shift", "expected"), [(0.0, 1.0), (1.0, 0.5)])
def test_accuracy_judges_no_pair_by_a_threshold_it_chose(shift, expected):
    """The second half is told apart as well as the first, at other similarities."""
    matching, foreign = torch.full((6,), 0.9), torch.full((6,), 0.7)
    matching[3:] -= shift
    foreign[3:] -= shift
    assert accuracy(matching, foreign) == expected


def unit(*shape: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("early", [-5, -1, 0, 3])
def test_sound_that_comes_some_frames_early_fits_best_that_many_frames_before_the_window(early):
    moments = unit(40, 32, seed=1)
    vision = moments[10:30]
    heard = moments.roll(-early, dims=0)  # at frame t, what belongs to the lips of frame t + early
    around = torch.stack([heard[10 + shift : 30 + shift] for shift in range(-5, 6)], dim=1)
    offsets = best_offsets(vision, around)
    assert offsets.unique().tolist() == [early]
