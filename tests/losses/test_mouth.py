import pytest
import torch

from lipsync_lightning.losses.mouth import MouthLoss


@pytest.fixture
def hole() -> torch.Tensor:
    keep = torch.ones(2, 1, 8, 8)
    keep[:, :, 4:, 2:6] = 0
    return keep


def test_only_the_generated_part_counts_and_counts_fully(hole):
    real = torch.zeros(2, 3, 3, 8, 8)
    inside = real + 0.5 * (1 - hole)[:, None]
    assert MouthLoss()(inside, real, hole).item() == pytest.approx(0.5)
    assert MouthLoss()(real + hole[:, None], real, hole).item() == 0


def test_the_gradient_stays_inside(hole):
    generated = torch.randn(2, 3, 3, 8, 8, requires_grad=True)
    MouthLoss()(generated, torch.zeros_like(generated), hole).backward()
    assert generated.grad is not None
    assert torch.equal(generated.grad != 0, (hole == 0)[:, None].expand_as(generated))
