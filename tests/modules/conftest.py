"""Stage modules on tiny parts, and a trainer that only trains."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from lipsync_lightning.clip import ClipBatch
from lipsync_lightning.losses.perceptual import PerceptualLoss
from lipsync_lightning.losses.sync import SyncLoss
from lipsync_lightning.losses.trepa import TREPALoss
from lipsync_lightning.losses.weighted import WeightedLoss, WeightedLosses
from lipsync_lightning.models.videomae import VideoMAEFeatures
from lipsync_lightning.modules.unet_stage1 import UNetStage1Module
from lipsync_lightning.modules.unet_stage2 import UNetStage2Module

PUBLISHED_GROUPS = ["motion_modules.", "attentions."]


class ColourDistance(nn.Module):
    """Stands in for LPIPS: the distance of mean colours, through one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, 3, 1)

    def forward(self, generated_NCHW: Any, real_NCHW: Any) -> Any:
        return (self.net(generated_NCHW) - self.net(real_NCHW)).square().mean(dim=(1, 2, 3))


@pytest.fixture
def noise_losses() -> Callable[[], WeightedLosses]:
    return lambda: WeightedLosses(terms={"noise": WeightedLoss(weight=1.0, loss=nn.MSELoss())})


@pytest.fixture
def all_losses(make_syncnet, tiny_clip) -> Callable[[], WeightedLosses]:
    features = partial(
        VideoMAEFeatures, image_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2, mlp_width=32, tubelet_size=2
    )

    def make() -> WeightedLosses:
        return WeightedLosses(
            terms={
                "noise": WeightedLoss(weight=1.0, loss=nn.MSELoss()),
                "sync": WeightedLoss(weight=0.05, loss=SyncLoss(syncnet=make_syncnet(), resolution=32)),
                "perceptual": WeightedLoss(weight=0.1, loss=PerceptualLoss(metric=ColourDistance())),
                "trepa": WeightedLoss(weight=10.0, loss=TREPALoss(features(num_frames=tiny_clip.num_frames))),
            }
        )

    return make


@pytest.fixture
def make_stage1(
    make_unet, tiny_autoencoder, ddim_epsilon, training_arguments, noise_losses
) -> Callable[..., UNetStage1Module]:
    def make(**changes: Any) -> UNetStage1Module:
        arguments = {
            "losses": noise_losses(),
            "autoencoder": tiny_autoencoder,
            "unet": make_unet("none"),
            "scheduler": ddim_epsilon,
            "trainable": [""],
            "mixed_noise_alpha": 1.0,
            "audio_dropout": 0.0,
            "gradient_checkpointing": False,
            "num_inference_steps": 2,
            "guidance_scale": 1.5,
            **training_arguments,
        }
        return UNetStage1Module(**{**arguments, **changes})

    return make


@pytest.fixture
def make_stage2(
    make_unet, tiny_autoencoder, ddim_epsilon, training_arguments, all_losses
) -> Callable[..., UNetStage2Module]:
    def make(**changes: Any) -> UNetStage2Module:
        arguments = {
            "losses": all_losses(),
            "autoencoder": tiny_autoencoder,
            "unet": make_unet("all"),
            "scheduler": ddim_epsilon,
            "trainable": PUBLISHED_GROUPS,
            "mixed_noise_alpha": 1.0,
            "audio_dropout": 0.0,
            "gradient_checkpointing": False,
            "num_inference_steps": 2,
            "guidance_scale": 1.5,
            **training_arguments,
        }
        return UNetStage2Module(**{**arguments, **changes})

    return make


@pytest.fixture
def train(tmp_path) -> Callable[..., Trainer]:
    """A function that trains a module on batches as they are, in this order, and returns the trainer."""

    def run(
        module: LightningModule,
        batches: list[ClipBatch],
        steps: int,
        heldout: list[ClipBatch] | None = None,
        callbacks: list[Callback] | None = None,
        checkpoint: Path | None = None,
    ) -> Trainer:
        trainer = Trainer(
            max_steps=steps,
            max_epochs=-1 if steps > 0 else 1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=bool(callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=tmp_path,
            callbacks=callbacks,
            gradient_clip_val=1.0 if module.automatic_optimization else None,
        )
        loaders = {"train_dataloaders": in_order(batches), "val_dataloaders": in_order(heldout) if heldout else None}
        trainer.fit(module, **loaders, ckpt_path=checkpoint, weights_only=True)
        return trainer

    return run


def in_order(batches: list[ClipBatch]) -> DataLoader:
    return DataLoader(batches, batch_size=None, shuffle=False)  # pyright: ignore[reportArgumentType]
