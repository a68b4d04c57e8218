from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lipsync_lightning.models.syncnet import StableSyncNet
from oracle import fill_state_dict, uniform

FIXTURES = Path(__file__).parents[1] / "fixtures"


def encoder(
    in_channels: int, channels: list[int], factors: list[Any], attn_blocks: list[int], **more: int
) -> dict[str, Any]:
    return {
        "in_channels": in_channels,
        "block_out_channels": channels,
        "downsample_factors": factors,
        "attn_blocks": attn_blocks,
        "dropout": 0.0,
        **more,
    }


MEL_FACTORS = [[2, 1], 2, 2, 1, 2, 2, [2, 3]]
LIPS_FACTORS = [[1, 2], 2, 2, 2, 2, 2, 2, 2]


def demo_syncnet(**more: int) -> StableSyncNet:
    return StableSyncNet(
        audio_encoder=encoder(
            1, [8, 8, 16, 16, 32], [2, 2, 2, 2, [5, 4]], [0, 0, 0, 1, 0], norm_num_groups=4, attention_heads=2, **more
        ),
        visual_encoder=encoder(
            48, [8, 8, 16, 16, 32], [2, 2, 2, 2, [2, 4]], [0, 0, 0, 1, 0], norm_num_groups=4, attention_heads=2, **more
        ),
    )


@pytest.fixture
def clips() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.rand(4, 48, 32, 64) * 2 - 1, torch.randn(4, 1, 80, 52)


def test_embeddings_are_those_of_the_reference_network():
    stored = load_file(FIXTURES / "stable_syncnet.safetensors")
    network = StableSyncNet(
        audio_encoder=encoder(1, [32, 32, 32, 64, 64, 64, 64], MEL_FACTORS, [0, 0, 0, 1, 1, 0, 0]),
        visual_encoder=encoder(48, [32, 32, 32, 32, 64, 64, 64, 64], LIPS_FACTORS, [0, 0, 0, 0, 1, 1, 0, 0]),
    ).eval()
    network.load_state_dict(fill_state_dict(network.state_dict(), through_half=True))
    frames = torch.from_numpy(uniform("image_sequences", (3, 48, 128, 256))).half().float()
    with torch.no_grad():
        vision, audio = network(frames, stored["mel"].float())
    torch.testing.assert_close(vision, stored["vision_embeds"], rtol=0, atol=1e-5)
    torch.testing.assert_close(audio, stored["audio_embeds"], rtol=0, atol=1e-5)


def test_a_saved_syncnet_loads_with_the_same_embeddings(tmp_path, clips):
    network = demo_syncnet().eval()
    network.save_pretrained(tmp_path)
    loaded = StableSyncNet.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(*clips)[0], network(*clips)[0], rtol=0, atol=0)
    torch.testing.assert_close(loaded(*clips)[1], network(*clips)[1], rtol=0, atol=0)


def test_a_frozen_syncnet_passes_the_same_gradient_to_the_frames_with_and_without_checkpointing(clips):
    network = demo_syncnet().eval().requires_grad_(False)

    def gradient() -> torch.Tensor:
        frames = clips[0].clone().requires_grad_()
        (network.embed_frames(frames) * network.embed_mel(clips[1])).sum().backward()
        assert frames.grad is not None
        return frames.grad

    plain = gradient()
    network.enable_gradient_checkpointing()
    torch.testing.assert_close(gradient(), plain)
    assert (plain != 0).float().mean() > 0.9
