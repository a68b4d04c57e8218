"""Stage modules on tiny parts, and a trainer that only trains."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from lipsync_lightning.losses.sync import SyncLoss
from lipsync_lightning.losses.terms import NoiseLoss, StepOutput, WeightedLoss, WeightedLosses
from lipsync_lightning.losses.trepa import PerceptualLoss, TREPALoss
from lipsync_lightning.models.videomae import VideoMAEFeatures
from lipsync_lightning.modules.rng import ClipRNG
from lipsync_lightning.modules.unet_base import UNetModule
from lipsync_lightning.modules.unet_stage1 import UNetStage1Module
from lipsync_lightning.modules.unet_stage2 import UNetStage2Module
from small_training import fit

TERMS = {"noise": 1.0, "sync": 0.05, "perceptual": 0.1, "trepa": 10.0}


class ColourDistance(nn.Module):
    """Stands in for LPIPS: the distance of mean colours, through one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, 3, 1)

    def forward(self, generated_NCHW: Any, real_NCHW: Any) -> Any:
        return (self.net(generated_NCHW) - self.net(real_NCHW)).square().mean(dim=(1, 2, 3))


@pytest.fixture
def losses_of(make_syncnet, tiny_clip) -> Callable[..., WeightedLosses]:
    """A function of names of terms: these terms with their published weights."""
    video = {"image_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "mlp_width": 32}
    made = {
        "noise": NoiseLoss,
        "sync": lambda: SyncLoss(syncnet=make_syncnet(), resolution=32),
        "perceptual": lambda: PerceptualLoss(metric=ColourDistance()),
        "trepa": lambda: TREPALoss(VideoMAEFeatures(**video, num_frames=tiny_clip.num_frames, tubelet_size=2)),
    }
    return lambda *names: WeightedLosses(
        terms={name: WeightedLoss(weight=TERMS[name], loss=made[name]()) for name in names}
    )


@pytest.fixture
def make_stage1(make_unet, tiny_autoencoder, ddim_epsilon, training_arguments, losses_of) -> Callable[..., Any]:
    def make(**changes: Any) -> UNetStage1Module:
        arguments = {
            "losses": losses_of("noise"),
            "autoencoder": tiny_autoencoder,
            "unet": make_unet("none"),
            "scheduler": ddim_epsilon,
            "trainable": [""],
            "lora": None,
            "mixed_noise_alpha": 1.0,
            "timesteps": "uniform",
            "audio_dropout": 0.0,
            "frozen_dtype": "float32",
            "gradient_checkpointing": False,
            "offload_activations": False,
            "compile": False,
            "num_inference_steps": 2,
            "guidance_scale": 1.5,
            **training_arguments,
        }
        stage = changes.pop("stage", UNetStage1Module)
        return stage(**{**arguments, **changes})

    return make


@pytest.fixture
def make_stage2(make_stage1, make_unet, losses_of) -> Callable[..., Any]:
    def make(**changes: Any) -> UNetStage2Module:
        parts = {"losses": losses_of(*TERMS), "unet": make_unet("all"), "trainable": ["motion_modules.", "attentions."]}
        return make_stage1(stage=UNetStage2Module, **{**parts, **changes})

    return make


@pytest.fixture
def denoised() -> Callable[..., StepOutput]:
    """A function of a module and a batch: what the losses of a step would read, with the sound of every clip."""

    def denoise(module: UNetModule, batch: Any) -> StepOutput:
        has_audio = np.ones(len(batch["seed"]), dtype=bool)
        return module.denoise(batch, has_audio, ClipRNG(batch["seed"], "cpu"))  # pyright: ignore[reportCallIssue]

    return denoise


@pytest.fixture
def train(tmp_path) -> Callable[..., Trainer]:
    """A function that trains a module on batches as they are, in this order, and returns the trainer."""

    def run(
        module: LightningModule,
        batches: list[Any],
        steps: int,
        heldout: list[Any] | None = None,
        checkpoint: Path | None = None,
    ) -> Trainer:
        training, validation = (
            None if data is None else DataLoader(data, batch_size=None) for data in (batches, heldout)
        )
        options = {"max_steps": steps, "max_epochs": -1 if steps > 0 else 1, "default_root_dir": tmp_path}
        clipping = {"gradient_clip_val": 1.0 if module.automatic_optimization else None}
        return fit(module, training, val=validation, ckpt_path=checkpoint, **options, **clipping)

    return run
