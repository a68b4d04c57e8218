import pytest
import torch

from lipsync_lightning.losses.mouth import MouthLoss, MouthNoiseLoss, ReconstructionLoss


def test_only_the_generated_part_of_the_mouth_counts_and_counts_fully():
    hole = torch.zeros(2, 1, 8, 8)
    hole[:, :, 4:, 2:6] = 1
    real = torch.zeros(2, 3, 3, 8, 8, requires_grad=True)
    inside = MouthLoss()(real + 0.5 * hole[:, None], torch.zeros_like(real), 1 - hole)
    inside.backward()
    assert inside.item() == pytest.approx(0.5)
    assert real.grad is not None
    assert torch.equal(real.grad != 0, (hole == 1)[:, None].expand_as(real))
    assert MouthLoss()(real + 1 - hole[:, None], torch.zeros_like(real), 1 - hole).item() == 0
    assert ReconstructionLoss()(real + 0.5 * hole[:, None], real).item() == pytest.approx(0.5 * hole.mean().item())


def test_the_weighted_target_counts_kept_latents_less_and_equal_errors_alike():
    keep = torch.ones(1, 1, 8, 8)
    keep[:, :, 4:] = 0  # half of the 4 x 4 latents
    target = torch.zeros(1, 3, 2, 4, 4)
    loss, kept = MouthNoiseLoss(kept_weight=0.25), torch.zeros_like(target)
    kept[..., :2, :] = 1
    assert loss(target + 1, target, keep).item() == pytest.approx(1)
    assert loss(target + 1 - kept, target, keep).item() == pytest.approx(0.8)
    assert loss(target + kept, target, keep).item() == pytest.approx(0.2)
