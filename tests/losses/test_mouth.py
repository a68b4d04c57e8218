import pytest
import torch

from lipsync_lightning.losses.mouth import MouthLoss, ReconstructionLoss


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
