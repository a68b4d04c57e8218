from hashlib import sha256
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch.nn import functional as F

from lipsync_lightning.files import CONF_DIR
from lipsync_lightning.models.wav2lip_syncnet import Wav2LipSyncNet

LATENTSYNC_FRAMES = 5  # of LatentSync's variant of the network, whose names and shapes are known


def layers(name: str) -> dict[str, list[dict[str, Any]]]:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        config = compose(f"models/syncnet/{name}").models.syncnet
    return {encoder: OmegaConf.to_container(config[encoder]) for encoder in ("audio_encoder", "visual_encoder")}  # pyright: ignore[reportReturnType]


def tiny_syncnet() -> Wav2LipSyncNet:
    """Of 4 frames of 16x32 lips and of 80x13 mels."""
    lips = [
        {"in_channels": 12, "out_channels": 16, "kernel_size": 7, "padding": 3},
        {"in_channels": 16, "out_channels": 32, "kernel_size": 5, "stride": [1, 2], "padding": 2},
        {"in_channels": 32, "out_channels": 32, "residual": True},
        {"in_channels": 32, "out_channels": 32, "stride": 6},
        {"in_channels": 32, "out_channels": 32, "padding": 0},
    ]
    sound = [
        {"in_channels": 1, "out_channels": 16, "stride": [5, 2]},
        {"in_channels": 16, "out_channels": 16, "residual": True},
        {"in_channels": 16, "out_channels": 32, "stride": [6, 3]},
        {"in_channels": 32, "out_channels": 32, "padding": 0},
    ]
    return Wav2LipSyncNet(audio_encoder=sound, visual_encoder=lips)


@pytest.fixture
def clips() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(4, 12, 16, 32) * 2 - 1, torch.randn(4, 1, 80, 13)


def test_names_shapes_and_types_are_those_of_latentsyncs_variant_but_for_the_number_of_frames():
    encoders = layers("wav2lip")
    encoders["visual_encoder"][0]["in_channels"] = 3 * LATENTSYNC_FRAMES
    with torch.device("meta"):
        network = Wav2LipSyncNet(**encoders)
    entries = {
        key: f"{key} {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
        for key, tensor in network.state_dict().items()
    }
    assert (len(entries), network.num_parameters()) == (259, 65_215_360)
    assert sha256("\n".join(sorted(entries.values())).encode()).hexdigest()[:16] == "e25df77dcbc4487b"


@pytest.mark.parametrize("encoder", ["audio_encoder", "visual_encoder"])
def test_every_pixel_of_the_demo_clip_has_a_say(encoder: str):
    network = Wav2LipSyncNet(**layers("demo_wav2lip")).eval()
    images = torch.randn((1, 48, 32, 64) if encoder == "visual_encoder" else (1, 1, 80, 52)).requires_grad_()
    hidden = images
    for block in getattr(network, encoder):
        hidden = block.conv_block(hidden)  # without ReLU, which may be dead for one picture
    hidden.sum().backward()
    assert images.grad is not None
    assert (images.grad != 0).all()


def loss_after_training(mels: list[torch.Tensor], frames: torch.Tensor) -> float:
    torch.manual_seed(0)
    network = tiny_syncnet()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    loss = torch.zeros(())
    for mel in mels:
        vision, audio = network(frames, mel)
        loss = F.cross_entropy(10 * vision @ audio.T, torch.arange(len(frames)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def test_it_learns_four_clips_by_heart_but_not_sound_that_changes_places_every_step(clips):
    frames, mel = clips
    shuffled = [mel[torch.randperm(4)] for _ in range(40)]
    assert loss_after_training([mel] * 40, frames) < 0.5  # chance is log(4) = 1.39
    assert loss_after_training(shuffled, frames) > 1.0
