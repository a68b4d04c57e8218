import pytest
import torch

from lipsync_lightning.errors import MissingWeights, WrongWeights
from lipsync_lightning.losses.perceptual import PerceptualLoss, untrained_lpips, vgg_lpips


@pytest.fixture(scope="module")
def loss() -> PerceptualLoss:
    torch.manual_seed(0)
    return PerceptualLoss(metric=untrained_lpips())


def test_equal_clips_cost_nothing_and_different_ones_something(loss, clip_batch):
    frames = clip_batch["frames"]
    assert loss(frames, frames).item() == pytest.approx(0.0, abs=1e-7)
    assert loss(frames, clip_batch["reference"]).item() > 1e-4


def test_a_stronger_change_costs_more(loss, clip_batch):
    frames, noise = clip_batch["frames"] * 0.5, clip_batch["reference"]
    assert 0 < loss(frames + 0.05 * noise, frames) < loss(frames + 0.5 * noise, frames)


def test_the_gradient_reaches_every_generated_frame_and_no_parameter(loss, clip_batch):
    frames = clip_batch["frames"].requires_grad_()
    loss(frames, clip_batch["reference"]).backward()
    assert frames.grad is not None
    assert frames.grad.abs().amax(dim=(2, 3, 4)).min() > 0
    assert not any(parameter.requires_grad for parameter in loss.parameters())


def test_missing_vgg_weights_name_the_command_that_gets_them(tmp_path):
    with pytest.raises(MissingWeights, match=r"lipsync_lightning\.convert fetch=latentsync-1\.6 needs=training$"):
        vgg_lpips(path=str(tmp_path / "auxiliary" / "vgg16.pth"))


def test_another_network_than_vgg_is_refused(tmp_path):
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "vgg16.pth")
    with pytest.raises(WrongWeights, match=r"not torchvision's VGG-16: it lacks .* more"):
        vgg_lpips(path=str(tmp_path / "vgg16.pth"))


def test_vgg_weights_are_taken_over_under_torchvisions_names(tmp_path):
    stored = {
        "features." + name.split(".", 1)[1]: tensor for name, tensor in untrained_lpips().net.state_dict().items()
    }
    torch.save({**stored, "classifier.0.bias": torch.zeros(2)}, tmp_path / "vgg16.pth")
    loaded = vgg_lpips(path=str(tmp_path / "vgg16.pth")).net.state_dict()
    assert all(torch.equal(tensor, stored["features." + name.split(".", 1)[1]]) for name, tensor in loaded.items())
