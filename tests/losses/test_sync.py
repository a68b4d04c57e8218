from math import log
from typing import cast

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from lipsync_lightning.losses.sync import LatentSyncLoss, SyncLoss
from lipsync_lightning.models.syncnet import StableSyncNet


class BrightnessSyncNet(nn.Module):
    """Embeds the mean brightness of each frame, and the first mel columns as they are: equal where they match."""

    def __init__(self, calibration: dict[str, float] | None = None) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.config = {"calibration": calibration}

    def forward(self, frames: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        self.seen = frames
        brightness_BT = rearrange(frames, "b (t c) h w -> b t (c h w)", c=3).mean(dim=2)
        loudness_BT = mel[:, 0, 0, : brightness_BT.shape[1]]
        return functional.normalize(self.gain * brightness_BT, dim=1), functional.normalize(loudness_BT, dim=1)


def brightness_loss(calibration: dict[str, float] | None = None) -> SyncLoss:
    return SyncLoss(syncnet=cast(StableSyncNet, BrightnessSyncNet(calibration)), resolution=32)


@pytest.fixture
def speaking() -> tuple[Tensor, Tensor]:
    """Frames as bright as their sound is loud."""
    loudness_BT = torch.rand(2, 4) * 0.8
    frames = loudness_BT[:, :, None, None, None].expand(2, 4, 3, 32, 32).clone()
    return frames, loudness_BT[:, None, None, :].expand(2, 1, 80, 4)


def test_lips_that_match_their_sound_cost_nothing_and_shifted_sound_costs_more(speaking):
    frames, mel = speaking
    assert brightness_loss()(frames, mel).item() == pytest.approx(0.0, abs=1e-6)
    assert brightness_loss()(frames, mel.roll(1, dims=3)).item() > 0.05


def test_the_cost_is_minus_the_logarithm_of_the_similarity(speaking):
    frames, _ = speaking
    frames[:, 0], frames[:, 1:] = 1.0, 0.0
    mel = torch.tensor([0.6, 0.8, 0.0, 0.0]).expand(2, 1, 80, 4)
    assert brightness_loss()(frames, mel).item() == pytest.approx(-log(0.6), abs=1e-5)


def test_larger_faces_are_shrunk_to_the_size_syncnet_knows(speaking):
    frames, mel = speaking
    loss = brightness_loss()
    loss(frames.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4), mel)
    assert loss.syncnet.seen.shape == (2, 12, 16, 32)


def test_the_gradient_reaches_every_frame_and_no_parameter_of_syncnet(tiny_syncnet, clip_batch):
    loss = SyncLoss(syncnet=tiny_syncnet, resolution=32)
    frames = clip_batch["frames"].requires_grad_()
    loss(frames, clip_batch["mel"]).backward()
    assert frames.grad is not None
    assert frames.grad[..., 16:, :].abs().amax(dim=(2, 3, 4)).min() > 0
    assert frames.grad[..., :16, :].abs().max() == 0
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in loss.parameters())


def costs_and_slopes(calibration: dict[str, float] | None, similarities: Tensor) -> tuple[Tensor, Tensor]:
    """What lips and sound of these similarities cost, and how that changes with the similarity."""
    similarity_B = similarities.clone().requires_grad_()
    brightness_BT = torch.stack([similarity_B, (1 - similarity_B**2).sqrt()], dim=1)
    frames = functional.pad(brightness_BT, (0, 2))[:, :, None, None, None].expand(-1, -1, 3, 32, 32)
    mel = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(1, 1, 80, 4)
    costs_B = torch.stack([brightness_loss(calibration)(clip[None], mel) for clip in frames])
    return costs_B.detach(), torch.autograd.grad(costs_B.sum(), similarity_B)[0]


@pytest.mark.parametrize("scale", [3.0, 20.0, 200.0])
@pytest.mark.parametrize(("threshold", "straight_below"), [(0.4, 0.4), (1.5, 1.0), (-1.0, 1e-3)])
def test_a_calibrated_network_has_the_published_slope_from_its_threshold_up_and_below_it_no_steeper_one(
    scale, threshold, straight_below
):
    similarities = torch.tensor([0.02, 0.2, 0.3999, 0.4001, 0.6, 0.8, 0.99])
    published, calibrated = (
        costs_and_slopes(calibration, similarities)
        for calibration in (None, {"scale": scale, "bias": -threshold * scale})
    )
    torch.testing.assert_close(published[1], -1 / similarities)
    torch.testing.assert_close(calibrated[1], published[1].clamp(min=-1 / straight_below))
    tangent = -log(straight_below) + 1 - similarities / straight_below
    torch.testing.assert_close(calibrated[0], published[0].where(similarities >= straight_below, tangent))


def test_a_latent_syncnet_sees_whole_faces_of_all_channels():
    syncnet = BrightnessSyncNet()
    loss = LatentSyncLoss(syncnet=cast(StableSyncNet, syncnet))
    latents = torch.rand(2, 4, 3, 8, 8)
    loss(latents, torch.rand(2, 1, 80, 4))
    assert torch.equal(syncnet.seen, rearrange(latents, "b t c h w -> b (t c) h w"))
