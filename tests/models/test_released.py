import pytest
import torch
from diffusers import AutoencoderKL

from lipsync_lightning.errors import MissingWeights, WrongWeights
from lipsync_lightning.models import released
from lipsync_lightning.models.videomae import VideoMAEFeatures

TINY_VIDEOMAE = {
    "image_size": 16,
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
    "mlp_width": 32,
    "num_frames": 4,
    "tubelet_size": 2,
}


def test_a_missing_file_is_refused_with_the_command_that_puts_it_exactly_there(tmp_path):
    with pytest.raises(MissingWeights, match=rf"hf download ByteDance/LatentSync-1\.6 whisper/tiny\.pt --local-dir {tmp_path}/weights$"):
        released.whisper(path=str(tmp_path / "weights" / "whisper" / "tiny.pt"))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02abc", b"PK\x03\x04 and then nothing", b"<html>Sign in</html>"])
def test_a_file_of_another_kind_is_refused_in_one_sentence(tmp_path, content):
    path = tmp_path / "tiny.pt"
    path.write_bytes(content)
    with pytest.raises(WrongWeights, match=r"tiny\.pt is not a readable checkpoint: \S+"):
        released.whisper(path=str(path))


def test_a_lone_tensor_is_no_checkpoint(tmp_path):
    torch.save(torch.zeros(2), tmp_path / "tiny.pt")
    with pytest.raises(WrongWeights, match="holds a Tensor"):
        released.whisper(path=str(tmp_path / "tiny.pt"))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    torch.save({"dims": pytest.fail}, tmp_path / "tiny.pt")
    with pytest.raises(WrongWeights, match="not a readable checkpoint"):
        released.whisper(path=str(tmp_path / "tiny.pt"))


def test_another_checkpoint_is_no_whisper(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "tiny.pt")
    with pytest.raises(WrongWeights, match="no 'dims' or no 'model_state_dict'"):
        released.whisper(path=str(tmp_path / "tiny.pt"))


def test_videomae_comes_frozen_and_without_its_classifier(tmp_path):
    weights = VideoMAEFeatures(**TINY_VIDEOMAE).state_dict()
    torch.save({"module": {**weights, "head.weight": torch.zeros(3, 16), "head.bias": torch.zeros(3)}}, tmp_path / "vit.pth")
    loaded = released.videomae(path=str(tmp_path / "vit.pth"), architecture=TINY_VIDEOMAE)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in weights.items())


def test_videomae_of_another_size_is_refused(tmp_path):
    torch.save({"module": VideoMAEFeatures(**{**TINY_VIDEOMAE, "depth": 2}).state_dict()}, tmp_path / "vit.pth")
    with pytest.raises(WrongWeights, match="does not hold this VideoMAE"):
        released.videomae(path=str(tmp_path / "vit.pth"), architecture=TINY_VIDEOMAE)


def test_the_autoencoder_comes_frozen_from_a_plain_diffusers_folder(tmp_path):
    AutoencoderKL(block_out_channels=(32,), latent_channels=4).save_pretrained(tmp_path)
    loaded = released.stable_diffusion_autoencoder(path=str(tmp_path))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert loaded.latent_channels == 4


def test_a_missing_autoencoder_is_refused_with_its_download_command(tmp_path):
    with pytest.raises(MissingWeights, match=rf"hf download stabilityai/sd-vae-ft-mse --local-dir {tmp_path}/vae$"):
        released.stable_diffusion_autoencoder(path=str(tmp_path / "vae"))
