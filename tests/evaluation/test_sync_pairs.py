import pytest
import torch
from torch import nn

from lipsync_lightning.clip import ClipBatch
from lipsync_lightning.evaluation.sync_pairs import heldout_accuracy, pair_similarities


class Known(nn.Module):
    """Embeds lips and sound by a number that the test wrote into them, so that it is known which fit."""

    device = "cpu"

    def forward(self, lips: torch.Tensor, mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.embed(lips), self.embed(mel)

    def embed(self, tensor: torch.Tensor) -> torch.Tensor:
        angle = tensor.flatten(1).mean(dim=1)
        return torch.stack([angle.cos(), angle.sin()], dim=1)


def batch_of(lips: list[float], sound: list[float]) -> ClipBatch:
    frames = torch.tensor(lips)[:, None, None, None, None].expand(-1, 4, 3, 8, 8)
    return ClipBatch(
        frames=frames,
        mel=torch.tensor(sound)[:, None, None, None].expand(-1, 1, 80, 13),
        id=[f"c{i}" for i in range(len(lips))],
    )


def test_a_network_that_knows_gets_all_right():
    batch = batch_of([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0])
    figures = heldout_accuracy(Known(), [batch], [batch], 1)  # pyright: ignore[reportArgumentType]
    assert figures["syncnet_accuracy"] == 1
    assert figures["syncnet_auc"] == 1
    assert 0.5 < figures["syncnet_threshold"] <= 1


def test_a_network_that_hears_nothing_is_at_chance():
    batch = batch_of([0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0])
    figures = heldout_accuracy(Known(), [batch], [batch], 1)  # pyright: ignore[reportArgumentType]
    assert figures["syncnet_auc"] == pytest.approx(0.5)


def test_the_threshold_is_chosen_on_training_windows_alone():
    training = batch_of([0.0, 3.0], [0.0, 3.0])
    figures = [
        heldout_accuracy(Known(), [training], [heldout], 1)["syncnet_threshold"]  # pyright: ignore[reportArgumentType]
        for heldout in (training, batch_of([0.0, 0.1], [1.0, 3.0]))
    ]
    assert figures[0] == figures[1]


def test_no_more_training_batches_are_read_than_asked_for():
    def endless():
        while True:
            yield batch_of([0.0, 3.0], [0.0, 3.0])

    assert heldout_accuracy(Known(), endless(), [batch_of([0.0, 3.0], [0.0, 3.0])], 3)["syncnet_accuracy"] == 1  # pyright: ignore[reportArgumentType]


def test_every_window_is_paired_with_its_own_sound():
    matching, foreign = pair_similarities(Known(), [batch_of([0.0, 1.0], [0.0, 1.0])] * 2)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(matching, torch.ones(4))
    assert (foreign < 0.99).all()
