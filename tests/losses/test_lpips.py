import torch

from lipsync_lightning.losses.lpips import untrained_lpips, vgg_lpips


def test_vgg_weights_are_taken_over_under_torchvisions_names(tmp_path):
    with torch.device("meta"):
        ours = untrained_lpips().net.state_dict()
    stored = {"features." + name.split(".", 1)[1]: torch.rand(tensor.shape) for name, tensor in ours.items()}
    torch.save({**stored, "classifier.0.bias": torch.zeros(2)}, tmp_path / "vgg16.pth")
    loaded = vgg_lpips(path=str(tmp_path / "vgg16.pth")).net.state_dict()
    assert all(torch.equal(tensor, stored["features." + name.split(".", 1)[1]]) for name, tensor in loaded.items())
