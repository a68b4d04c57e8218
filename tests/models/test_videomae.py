from hashlib import sha256
from pathlib import Path

import torch
from einops import rearrange
from safetensors.torch import load_file

from lipsync_lightning.models.videomae import VideoMAEFeatures
from oracle import fill_state_dict, uniform

FIXTURES = Path(__file__).parents[1] / "fixtures"
PATCHING = {"patch_size": 14, "num_frames": 16, "tubelet_size": 2}


def small_network() -> VideoMAEFeatures:
    network = VideoMAEFeatures(image_size=56, embed_dim=32, depth=3, num_heads=4, mlp_width=139, **PATCHING)
    network.load_state_dict(fill_state_dict(network.state_dict()))
    return network


def clips() -> torch.Tensor:
    videos_BCTHW = torch.from_numpy((uniform("videos", (2, 3, 16, 56, 56)) + 1) / 2).float()
    return rearrange(videos_BCTHW, "b c t h w -> b t c h w")


def test_features_are_those_of_the_reference_network():
    expected = load_file(FIXTURES / "videomae.safetensors")["features"]
    torch.testing.assert_close(small_network()(clips()), expected, rtol=0, atol=1e-5)


def test_keys_and_shapes_are_those_of_the_released_checkpoint_without_its_classifier():
    with torch.device("meta"):
        network = VideoMAEFeatures(image_size=224, embed_dim=1408, depth=40, num_heads=16, mlp_width=6144, **PATCHING)
    listing = "\n".join(sorted(f"{key} {tuple(weight.shape)}" for key, weight in network.state_dict().items()))
    assert sha256(listing.encode()).hexdigest()[:16] == "7adb514680ce8b06"
    classifier = 174 * 1408 + 174
    assert network.num_parameters() + classifier == 1_011_855_918


def test_the_same_gradient_reaches_every_frame_with_and_without_checkpointing():
    network = small_network().requires_grad_(False)

    def gradient() -> torch.Tensor:
        video = clips()[:1].requires_grad_()
        network(video).square().sum().backward()
        assert video.grad is not None
        return video.grad

    plain = gradient()
    network.enable_gradient_checkpointing()
    torch.testing.assert_close(gradient(), plain)
    assert (plain.abs().amax(dim=(2, 3, 4)) > 0).all()
