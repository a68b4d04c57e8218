from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from lipsync_lightning.models.syncnet import StableSyncNet
from oracle import fill_state_dict, uniform

FIXTURES = Path(__file__).parents[1] / "fixtures"


def encoder(in_channels: int, channels: list[int], factors: list[Any], attn_blocks: list[int]) -> dict[str, Any]:
    sizes = {"in_channels": in_channels, "block_out_channels": channels, "downsample_factors": factors}
    return {**sizes, "attn_blocks": attn_blocks, "dropout": 0.0}


MEL_FACTORS = [[2, 1], 2, 2, 1, 2, 2, [2, 3]]
LIPS_FACTORS = [[1, 2], 2, 2, 2, 2, 2, 2, 2]


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


def test_a_frozen_syncnet_passes_the_same_gradient_to_the_frames_with_and_without_checkpointing():
    small = {"norm_num_groups": 4, "attention_heads": 2}
    network = StableSyncNet(
        audio_encoder={**encoder(1, [8, 8, 16, 16, 32], [2, 2, 2, 2, [5, 4]], [0, 0, 0, 1, 0]), **small},
        visual_encoder={**encoder(48, [8, 8, 16, 16, 32], [2, 2, 2, 2, [2, 4]], [0, 0, 0, 1, 0]), **small},
    )
    network.eval().requires_grad_(False)
    clips, mel = torch.rand(4, 48, 32, 64) * 2 - 1, torch.randn(4, 1, 80, 52)

    def gradient() -> torch.Tensor:
        frames = clips.clone().requires_grad_()
        (network.embed_frames(frames) * network.embed_mel(mel)).sum().backward()
        assert frames.grad is not None
        return frames.grad

    plain = gradient()
    network.enable_gradient_checkpointing()
    torch.testing.assert_close(gradient(), plain)
    assert (plain != 0).float().mean() > 0.9
