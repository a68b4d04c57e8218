"""Tiny parts that fit together: clips of 4 frames of 32 pixels, and networks that train on them in milliseconds."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.optimization import get_constant_schedule
from omegaconf import OmegaConf

from command_line import CommandLine
from lipsync_lightning.clip import ClipBatch, ClipSpec
from lipsync_lightning.media.masks import keep_mask
from lipsync_lightning.models.autoencoder import LinearAutoencoder, PatchMoments
from lipsync_lightning.models.syncnet import StableSyncNet
from lipsync_lightning.models.unet import LipSyncUNet

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start; they run side by side
NUM_TOKENS, TOKEN_WIDTH = 3, 8
UNET: dict[str, Any] = {  # for `tiny_autoencoder` and the audio of `clip_batch`
    **{"in_channels": 13, "out_channels": 4, "block_out_channels": [16, 16], "attention": [False, True]},
    **{"layers_per_block": 1, "num_attention_heads": 2, "motion_num_attention_heads": 2},
    **{"cross_attention_dim": TOKEN_WIDTH, "norm_num_groups": 4, "motion_norm_num_groups": 4},
}


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(tmp_path, monkeypatch, capfd)


@pytest.fixture(autouse=True)
def same_draws_every_time() -> None:
    torch.manual_seed(0)


@pytest.fixture
def tiny_clip() -> ClipSpec:
    return ClipSpec(num_frames=4, fps=25, resolution=32, sample_rate_hz=16000, mel_hz=80, num_mels=80)


@pytest.fixture
def make_clip_batch(tiny_clip: ClipSpec) -> Callable[[int], ClipBatch]:
    """A function of a number of clips: a batch of noise pictures and noise sound."""

    def make(num_clips: int) -> ClipBatch:
        side = tiny_clip.resolution
        frames = (num_clips, tiny_clip.num_frames, 3, side, side)
        return ClipBatch(
            frames=torch.rand(frames) * 2 - 1,
            reference=torch.rand(frames) * 2 - 1,
            keep_mask=keep_mask(side).expand(num_clips, 1, side, side).clone(),
            audio=torch.randn(num_clips, tiny_clip.num_frames, NUM_TOKENS, TOKEN_WIDTH),
            mel=torch.randn(num_clips, 1, tiny_clip.num_mels, tiny_clip.mel_columns),
            id=[f"clip_{index}" for index in range(num_clips)],
            first_frame=torch.zeros(num_clips, dtype=torch.int64),
            seed=torch.randint(1 << 40, (num_clips,)),
        )

    return make


@pytest.fixture
def clip_batch(make_clip_batch: Callable[[int], ClipBatch]) -> ClipBatch:
    return make_clip_batch(2)


@pytest.fixture
def make_syncnet(tiny_clip: ClipSpec) -> Callable[[], StableSyncNet]:
    common: dict[str, Any] = {"dropout": 0.0, "norm_num_groups": 4}

    def make() -> StableSyncNet:
        sound = {"in_channels": 1, "block_out_channels": [8, 8, 16, 32], "downsample_factors": [2, 2, 2, [10, 1]]}
        lips = {"block_out_channels": [8, 16, 32], "downsample_factors": [2, 2, [4, 8]], "attn_blocks": [0] * 3}
        return StableSyncNet(
            audio_encoder={**sound, "attn_blocks": [0] * 4, **common},
            visual_encoder={"in_channels": 3 * tiny_clip.num_frames, **lips, **common},
        )

    return make


@pytest.fixture
def tiny_syncnet(make_syncnet: Callable[[], StableSyncNet]) -> StableSyncNet:
    return make_syncnet()


@pytest.fixture
def make_unet() -> Callable[..., LipSyncUNet]:
    """A function of the temporal modules' place: a tiny U-Net."""

    def make(motion: str = "all") -> LipSyncUNet:
        return LipSyncUNet(**UNET, motion=motion)  # pyright: ignore[reportArgumentType]

    return make


@pytest.fixture
def tiny_unet(make_unet: Callable[..., LipSyncUNet]) -> LipSyncUNet:
    return make_unet()


@pytest.fixture
def tiny_autoencoder() -> LinearAutoencoder:
    """Fitted to noise: 4 of the 48 components of 4x4 patches."""
    autoencoder, moments = LinearAutoencoder(patch=4, latent_channels=4), PatchMoments(patch=4)
    moments.update(torch.rand(8, 3, 32, 32) * 2 - 1)
    autoencoder.fit_from_moments(moments.count, moments.total, moments.outer)
    return autoencoder


@pytest.fixture
def ddim_epsilon() -> DDIMScheduler:
    betas: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=False, steps_offset=1)


@pytest.fixture
def ddim_velocity(ddim_epsilon: DDIMScheduler) -> DDIMScheduler:
    changes = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    scheduler = DDIMScheduler.from_config(ddim_epsilon.config, **changes)
    assert isinstance(scheduler, DDIMScheduler)
    return scheduler


@pytest.fixture
def training_arguments(tiny_clip: ClipSpec) -> dict[str, Any]:
    """How every module of these tests descends."""
    return {"optimizer": partial(torch.optim.AdamW, lr=1e-2), "schedule": get_constant_schedule, "clip": tiny_clip}


@pytest.fixture
def run(tmp_path: Path, tiny_autoencoder: LinearAutoencoder, make_unet) -> Path:
    """What a training leaves: its configuration and a checkpoint."""
    folder = tmp_path / "run"
    tiny_autoencoder.save_pretrained(tmp_path / "autoencoder")
    unet: LipSyncUNet = make_unet("none")
    torch.nn.init.normal_(unet.conv_out.weight)
    (folder / "checkpoints").mkdir(parents=True)
    state = {f"unet.{name}": tensor for name, tensor in unet.state_dict().items()}
    torch.save({"state_dict": state}, folder / "checkpoints" / "step_00000002.ckpt")
    clip = {"num_frames": 4, "fps": 25, "resolution": 32, "sample_rate_hz": 16000, "mel_hz": 80, "num_mels": 80}
    encoder = {"num_tokens": 3, "columns_per_token": 1, "sample_rate_hz": 16000, "mel_hz": 80, "num_mels": 8}
    configuration = {
        "clip": {"_target_": "lipsync_lightning.clip.ClipSpec", **clip},
        "audio_encoder": {"_target_": "lipsync_lightning.models.audio_encoder.LogMelAudioEncoder", **encoder},
        "module": {
            "_target_": "lipsync_lightning.modules.unet_stage1.UNetStage1Module",
            "unet": {"_target_": "lipsync_lightning.models.unet.LipSyncUNet", **UNET, "motion": "none"},
            "autoencoder": {
                "_target_": "lipsync_lightning.models.autoencoder.LinearAutoencoder.from_pretrained",
                "pretrained_model_name_or_path": str(tmp_path / "autoencoder"),
            },
            "scheduler": {"_target_": "diffusers.DDIMScheduler"},
            **{"timesteps": "uniform", "num_inference_steps": 2, "guidance_scale": 1.5},
        },
    }
    OmegaConf.save(OmegaConf.create(configuration), folder / "config.yaml")
    return folder
