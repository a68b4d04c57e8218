"""What is frozen and stored in bf16 computes what it did: judges to the bit, the autoencoder to three digits."""

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from lipsync_lightning import diffusion
from lipsync_lightning.losses.lpips import untrained_lpips
from lipsync_lightning.losses.sync import SyncLoss
from lipsync_lightning.losses.syncnet_objectives import ContrastiveObjective
from lipsync_lightning.losses.trepa import PerceptualLoss, TREPALoss
from lipsync_lightning.models.autoencoder import StableDiffusionAutoencoder
from lipsync_lightning.models.syncnet import StableSyncNet
from lipsync_lightning.models.videomae import VideoMAEFeatures
from lipsync_lightning.models.weights_io import store_in

SIDE, FRAMES = 64, 4


def sync_loss() -> SyncLoss:
    sizes = {"block_out_channels": [8, 16, 32], "attn_blocks": [0, 1, 0], "dropout": 0.0, "norm_num_groups": 4}
    audio = {"in_channels": 1, "downsample_factors": [2, 2, [20, 3]], **sizes}
    visual = {"in_channels": 3 * FRAMES, "downsample_factors": [2, 2, [8, 16]], **sizes}
    return SyncLoss(syncnet=StableSyncNet(audio_encoder=audio, visual_encoder=visual), resolution=SIDE)


def trepa_loss() -> TREPALoss:
    tokens = {"image_size": 32, "patch_size": 8, "num_frames": FRAMES, "tubelet_size": 2}
    return TREPALoss(VideoMAEFeatures(**tokens, embed_dim=64, depth=4, num_heads=4, mlp_width=128))


JUDGES = {"sync": sync_loss, "trepa": trepa_loss, "perceptual": lambda: PerceptualLoss(metric=untrained_lpips())}


def alike(first: Tensor, second: Tensor) -> float:
    return float(functional.cosine_similarity(first.double().flatten(), second.double().flatten(), dim=0))


@pytest.mark.parametrize("kind", JUDGES)
def test_a_judge_whose_weights_are_stored_as_autocast_rounds_them_says_the_same_to_the_bit(kind: str):
    torch.manual_seed(0)
    judge, start = JUDGES[kind](), torch.rand(2, FRAMES, 3, SIDE, SIDE) * 2 - 1
    other = torch.randn(2, 1, 80, 13) if kind == "sync" else start + 0.3 * torch.randn_like(start)
    found = []
    for _ in range(2):
        generated = start.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = judge(generated, other)
        value.backward()
        found.append((value.detach(), generated.grad))
        store_in(torch.bfloat16, judge, fewest_dims=2)
    assert {parameter.dtype for parameter in judge.parameters()} == {torch.float32, torch.bfloat16}
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_frames_and_gradients_of_an_autoencoder_in_bf16_are_those_in_float32():
    torch.manual_seed(0)
    ways = {
        f"{way}_block_types": (f"{way.title()}{kind}Block2D",) * 2
        for way, kind in (("down", "Encoder"), ("up", "Decoder"))
    }
    vae = AutoencoderKL(**ways, block_out_channels=(16, 32), norm_num_groups=4)
    autoencoder = StableDiffusionAutoencoder(vae=vae).requires_grad_(False)
    video, target, found = torch.rand(1, 2, 3, 32, 32) * 2 - 1, torch.rand(1, 2, 3, 32, 32), []
    for dtype in (torch.float32, torch.bfloat16):
        autoencoder.to(dtype)
        latents = diffusion.encode(autoencoder, video, [torch.Generator().manual_seed(1)])
        assert latents.dtype == torch.float32
        given = torch.ones_like(latents).requires_grad_()
        (diffusion.decode(autoencoder, given) - target).square().mean().backward()
        assert given.grad is not None
        found.append((latents, given.grad))
    for exact, half in zip(*found, strict=True):
        assert alike(exact, half) >= 0.999


def test_contrastive_logits_are_those_of_float32_under_autocast():
    objective = ContrastiveObjective(initial_temperature=0.01)
    vision, audio = (functional.normalize(torch.randn(64, 32), dim=1) for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = objective(vision, audio)
    assert torch.equal(found, objective(vision, audio))
