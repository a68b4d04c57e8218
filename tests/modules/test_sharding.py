"""A U-Net in pieces on two processes learns what one process learns with the same windows."""

from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.models.unet import LipSyncUNet
from lipsync_lightning.modules.sharding import ShardedStrategy
from lipsync_lightning.modules.weights import network_weights, newest_checkpoint
from train_process import TrainProcess, logged, rank_environments, small_shards, step_of, unet_arguments

TWO = ("trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true")


@pytest.mark.slow
def test_two_processes_learn_in_pieces_what_one_learns_and_go_on_from_whole_checkpoints(tmp_path: Path):
    shards, one, two = small_shards(tmp_path), tmp_path / "one", tmp_path / "two"
    common = ("checkpoint_every=2", "module.gradient_checkpointing=true", "trainer.accumulate_grad_batches=2")
    common += ("data.samples.windows_per_clip=4",)
    given = unet_arguments(shards, one, *common, "trainer.max_steps=3", "data.batch_size=2")
    TrainProcess(given, tmp_path / "one.txt").ends()
    for steps in (2, 3):
        resumed = ("ckpt_path=last", "data.batch_size=1", f"trainer.max_steps={steps}")
        given = unet_arguments(shards, two, *common, *TWO, *resumed)
        ranks = [TrainProcess(given, tmp_path / f"{rank}.txt", own) for rank, own in enumerate(rank_environments(2))]
        assert "Traceback" not in "".join(process.ends() for process in ranks)
        assert step_of(two) == steps
    for column in ("train/loss", "train/gradient_norm"):  # clipped at 1
        assert logged(two, column) == pytest.approx(logged(one, column)[2:], abs=1e-5)
    saved, expected = (torch.load(newest_checkpoint(run), weights_only=True) for run in (two, one))  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(saved["state_dict"], expected["state_dict"], rtol=0, atol=1e-4)  # AdamW magnifies
    torch.testing.assert_close(saved["optimizer_states"], expected["optimizer_states"], rtol=0, atol=2e-5)
    unet = LipSyncUNet.from_pretrained(two / "unet", low_cpu_mem_usage=False)
    torch.testing.assert_close(dict(unet.state_dict()), network_weights(str(two), "unet"), rtol=0, atol=0)


def test_what_cannot_be_split_is_refused_in_one_sentence():
    module, strategy = LightningModule(), ShardedStrategy()
    strategy.connect(module)
    with pytest.raises(BadConfig, match="splits a U-Net, LightningModule has none; trainer=ddp trains it"):
        strategy.configure_ddp()
    module.unet = nn.Identity()
    module.trainer = Trainer(accelerator="cpu", logger=False, callbacks=[EMAWeightAveraging()])
    with pytest.raises(BadConfig, match="callbacks=ema averages whole weights"):
        strategy.configure_ddp()
