"""From shards to a training step on latents, by the commands of the documentation."""

from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from lightning import Trainer

from command_line import CommandLine
from lipsync_lightning.cli import build
from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import ClipMismatch
from lipsync_lightning.files import CONF_DIR
from lipsync_lightning.latents import main
from lipsync_lightning.models.autoencoder import PatchMoments, RefinedAutoencoder
from tiny_shards import write_real_shards

CLIP = ClipSpec(num_frames=16, fps=25, resolution=64, sample_rate_hz=16000, mel_hz=80, num_mels=80)  # clip=demo_64px
COMMAND = (
    "shards=demo/shards",
    "clip=demo_64px",
    "demo_dir=demo",
    "device=cpu",
    "models/autoencoder@autoencoder=demo",
    "models/audio_encoder@audio_encoder=log_mel",
)


@pytest.fixture
def demo_dir(tmp_path: Path) -> Path:
    """What the demo leaves: shards and a fitted autoencoder."""
    for split in ("train", "heldout"):
        write_real_shards(tmp_path / "demo" / "shards", split, [[36]], CLIP)
    moments = PatchMoments(patch=4)
    autoencoder = RefinedAutoencoder(patch=4, latent_channels=12, width=8, num_blocks=1)
    moments.update(torch.rand(4, 3, 64, 64) * 2 - 1)
    autoencoder.fit_from_moments(moments.count, moments.total, moments.outer)
    autoencoder.save_pretrained(tmp_path / "demo" / "decoder" / "autoencoder")
    return tmp_path / "demo"


def train_a_step(demo_dir: Path, *overrides: str) -> Trainer:
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        settings = [f"demo_dir={demo_dir}", "data.num_workers=0", "data.batch_size=1", *overrides]
        config = compose("train", overrides=["+experiment=demo/stage1_latents", *settings])
    trainer = Trainer(
        max_steps=1,
        val_check_interval=1,
        check_val_every_n_epoch=None,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(build(config.module), datamodule=build(config.data))
    return trainer


def test_shards_are_encoded_by_several_processes_and_trained_on(command_line: CommandLine, demo_dir: Path):
    out = demo_dir / "shards_latents" / "train"
    out.mkdir(parents=True)
    with FileLock(out / "000000.lock"):
        shown = command_line.run(main, *COMMAND)
    assert shown.strip() == "1 shards with latents in demo/shards_latents; 1 are still being encoded by other processes"
    shown = command_line.run(main, *COMMAND)
    assert shown.startswith("2 shards with latents in demo/shards_latents; train on them with an experiment that reads")
    trainer = train_a_step(demo_dir)
    assert trainer.global_step == 1
    assert all(torch.isfinite(trainer.callback_metrics[name]) for name in ("train/loss", "val/loss"))
    with pytest.raises(ClipMismatch, match="encoded with mask=released, this run wants face"):
        train_a_step(demo_dir, "data.samples.mask=face")
    with pytest.raises(ClipMismatch, match="made by another audio encoder"):
        train_a_step(demo_dir, "audio_encoder.num_tokens=4")
