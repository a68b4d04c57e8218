from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.models.audio_encoder import LogMelAudioEncoder
from lipsync_lightning.models.autoencoder import LinearAutoencoder
from lipsync_lightning.models.unet import LipSyncUNet
from lipsync_lightning.pipeline.lipsync import LipSyncPipeline


@pytest.fixture
def pipeline(
    make_unet: Callable[..., LipSyncUNet],
    tiny_autoencoder: LinearAutoencoder,
    ddim_velocity: DDIMScheduler,
    tiny_clip: ClipSpec,
) -> LipSyncPipeline:
    """A pipeline of random networks: what it makes is nonsense, but it depends on everything it should depend on."""
    unet = make_unet()
    for parameter in unet.conv_out.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    made = LipSyncPipeline(
        unet=unet.eval(),
        autoencoder=tiny_autoencoder,
        audio_encoder=LogMelAudioEncoder(
            num_tokens=3, columns_per_token=1, sample_rate_hz=16000, mel_hz=80, num_mels=8
        ),
        scheduler=ddim_velocity,
        clip=tiny_clip.as_dict(),
        num_inference_steps=2,
        guidance_scale=1.5,
    )
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "made" / "result.mp4"
