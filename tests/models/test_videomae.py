from pathlib import Path

import torch
from einops import rearrange
from safetensors.torch import load_file

from lipsync_lightning.models.videomae import VideoMAEFeatures
from oracle import fill_state_dict, uniform

FIXTURES = Path(__file__).parents[1] / "fixtures"


def small_network() -> VideoMAEFeatures:
    tokens = {"image_size": 56, "patch_size": 14, "num_frames": 16, "tubelet_size": 2}
    network = VideoMAEFeatures(**tokens, embed_dim=32, depth=3, num_heads=4, mlp_width=139)
    network.load_state_dict(fill_state_dict(network.state_dict()))
    return network


def clips() -> torch.Tensor:
    videos_BCTHW = torch.from_numpy((uniform("videos", (2, 3, 16, 56, 56)) + 1) / 2).float()
    return rearrange(videos_BCTHW, "b c t h w -> b t c h w")


def test_features_are_those_of_the_reference_network():
    expected = load_file(FIXTURES / "videomae.safetensors")["features"]
    torch.testing.assert_close(small_network()(clips()), expected, rtol=0, atol=1e-5)


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
