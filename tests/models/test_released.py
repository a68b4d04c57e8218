import pytest
import torch
from diffusers import AutoencoderKL

from lipsync_lightning.errors import MissingWeights, WrongWeights
from lipsync_lightning.models import released
from lipsync_lightning.models.videomae import VideoMAEFeatures

TINY_CONFIG = {
    "img_size": 16,
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
    "mlp_ratio": 2,
    "tubelet_size": 2,
}
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


def test_a_missing_file_is_refused_with_the_command_that_gets_it(tmp_path):
    with pytest.raises(
        MissingWeights, match=r"tiny\.pt; get them with: python -m lipsync_lightning\.convert fetch=latentsync-1\.6$"
    ):
        released.whisper(path=str(tmp_path / "weights" / "whisper" / "tiny.pt"))


def test_another_checkpoint_is_no_whisper(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "tiny.pt")
    with pytest.raises(WrongWeights, match="no 'dims' or no 'model_state_dict'"):
        released.whisper(path=str(tmp_path / "tiny.pt"))


def test_videomae_comes_frozen_and_without_its_classifier(tmp_path):
    weights = VideoMAEFeatures(**TINY_VIDEOMAE).state_dict()
    torch.save(
        {"module": {**weights, "head.weight": torch.zeros(3, 16), "head.bias": torch.zeros(3)}}, tmp_path / "vit.pth"
    )
    loaded = released.videomae(path=str(tmp_path / "vit.pth"), num_frames=4, config=TINY_CONFIG)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in weights.items())


def test_videomae_of_another_size_is_refused(tmp_path):
    torch.save({"module": VideoMAEFeatures(**{**TINY_VIDEOMAE, "depth": 2}).state_dict()}, tmp_path / "vit.pth")
    with pytest.raises(WrongWeights, match="do not fit VideoMAE"):
        released.videomae(path=str(tmp_path / "vit.pth"), num_frames=4, config=TINY_CONFIG)


def test_the_autoencoder_comes_frozen_from_a_plain_diffusers_folder(tmp_path):
    AutoencoderKL(block_out_channels=(32,), latent_channels=4).save_pretrained(tmp_path)
    loaded = released.stable_diffusion_autoencoder(path=str(tmp_path))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert loaded.latent_channels == 4


def test_a_missing_autoencoder_is_refused_with_its_download_command(tmp_path):
    with pytest.raises(MissingWeights, match=r"python -m lipsync_lightning\.convert fetch=latentsync-1\.6$"):
        released.stable_diffusion_autoencoder(path=str(tmp_path / "vae"))
