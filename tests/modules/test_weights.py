import pytest
import torch

from lipsync_lightning.errors import MissingWeights, WrongWeights
from lipsync_lightning.modules.weights import network_weights, newest_checkpoint


@pytest.fixture
def run(tmp_path, tiny_unet):
    """A run's folder with two checkpoints, the newer one holding the weights of `tiny_unet`."""
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    weights = {f"unet.{name}": tensor for name, tensor in tiny_unet.state_dict().items()}
    torch.save({"state_dict": weights}, folder / "step_00000020.ckpt")
    torch.save({"state_dict": {"unet.old": torch.zeros(1)}}, folder / "step_00000003.ckpt")
    return tmp_path / "run"


def assert_same(weights, network) -> None:
    assert set(weights) == set(network.state_dict())
    assert all(torch.equal(weights[name], tensor) for name, tensor in network.state_dict().items())


def test_a_run_gives_the_weights_of_its_newest_checkpoint(run, tiny_unet):
    assert newest_checkpoint(run) == run / "checkpoints" / "step_00000020.ckpt"
    assert_same(network_weights(str(run), "unet"), tiny_unet)


def test_an_export_and_the_networks_own_folder_give_its_weights(tmp_path, tiny_unet):
    tiny_unet.save_pretrained(tmp_path / "export" / "unet")
    assert_same(network_weights(str(tmp_path / "export"), "unet"), tiny_unet)
    assert_same(network_weights(str(tmp_path / "export" / "unet"), "unet"), tiny_unet)


def test_what_holds_no_such_network_is_refused_with_what_it_holds(tmp_path, run, tiny_unet):
    with pytest.raises(MissingWeights, match="no checkpoint, no export and no network there; give a run's folder"):
        network_weights(str(tmp_path / "nowhere"), "unet")
    with pytest.raises(WrongWeights, match=r"holds no syncnet; it has \['unet'\]"):
        network_weights(str(run), "syncnet")
    tiny_unet.save_pretrained(tmp_path / "export" / "unet")
    with pytest.raises(WrongWeights, match="holds no syncnet"):
        network_weights(str(tmp_path / "export"), "syncnet")


def test_what_is_no_checkpoint_of_a_run_or_cut_is_refused(tmp_path, tiny_unet):
    (tmp_path / "notes.ckpt").write_bytes(b"hello")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    tiny_unet.save_pretrained(tmp_path / "cut")
    (file,) = (tmp_path / "cut").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    for name, reason in (("notes.ckpt", "not a whole"), ("other.pt", "no 'state_dict' in it"), ("cut", "not a whole")):
        with pytest.raises(WrongWeights, match=reason):
            network_weights(str(tmp_path / name), "unet")
