"""A checkpoint that `train` wrote is all that its module is built of."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule

from lipsync_lightning.errors import BadConfig, WrongWeights
from lipsync_lightning.models.weights_io import read_file
from lipsync_lightning.modules.rebuilding import BUILT_OF
from lipsync_lightning.modules.syncnet import SyncNetModule
from lipsync_lightning.modules.unet_base import UNetModule
from lipsync_lightning.modules.unet_stage1 import UNetStage1Module
from lipsync_lightning.modules.weights import newest_checkpoint
from train_process import TrainProcess, arguments, small_shards, unet_arguments

SHORT = ("trainer.max_steps=2", "trainer.limit_val_batches=2")
LORA = ("module.lora.rank=2", "module.optimizer.lr=1.0e-2")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shards(tmp_path_factory.mktemp("rebuilding"))


def trained(run: Path, given: list[str]) -> Path:
    TrainProcess(given, run.parent / "log.txt").ends()
    checkpoint = newest_checkpoint(run)
    assert checkpoint
    return checkpoint


def assert_holds(module: LightningModule, checkpoint: Path) -> None:
    state: dict[str, Any] = read_file(checkpoint)["state_dict"]
    own = module.state_dict()
    assert [name for name in state if not torch.equal(own[name], state[name])] == []


def test_a_syncnet_comes_back_with_its_calibration(shards: Path, tmp_path: Path):
    more = ("trainer.val_check_interval=1", "module.schedule.num_warmup_steps=0")
    checkpoint = trained(tmp_path / "run", arguments(shards, tmp_path / "run", *SHORT, *more))
    module = SyncNetModule.load_from_checkpoint(checkpoint)
    assert_holds(module, checkpoint)
    assert module.syncnet.config["calibration"] == read_file(checkpoint)["calibration"] is not None
    with pytest.raises(BadConfig, match=r"holds a SyncNetModule; load it with SyncNetModule.load_from_checkpoint"):
        UNetModule.load_from_checkpoint(checkpoint)


def test_a_stage_comes_back_with_averaged_weights_and_its_frozen_networks(shards: Path, tmp_path: Path):
    checkpoint = trained(tmp_path / "run", unet_arguments(shards, tmp_path / "run", *SHORT, "callbacks=[default,ema]"))
    module = UNetStage1Module.load_from_checkpoint(checkpoint)
    assert_holds(module, checkpoint)
    state = read_file(checkpoint)
    assert any(
        not torch.equal(state["state_dict"][n], now)
        for n, now in state["current_model_state"].items()
        if n.startswith("unet.")
    )
    assert bool(module.autoencoder.is_fitted)
    again = UNetStage1Module.load_from_checkpoint(checkpoint, audio_dropout=0.5, autoencoder=module.autoencoder)
    assert (again.audio_dropout, again.autoencoder_fingerprint) == (0.5, module.autoencoder_fingerprint)


def test_lora_comes_back_beside_the_base_of_its_run(shards: Path, tmp_path: Path):
    pytest.importorskip("peft")
    base = trained(tmp_path / "run", unet_arguments(shards, tmp_path / "run", *SHORT))
    given = unet_arguments(shards, tmp_path / "lora", *SHORT, *LORA, f"init_from={base.parents[1]}")
    module = UNetStage1Module.load_from_checkpoint(trained(tmp_path / "lora", given))
    learned, name = UNetStage1Module.load_from_checkpoint(base).unet.state_dict(), "conv_in.weight"
    assert torch.equal(module.unet.state_dict()[name], learned[name])


def test_a_checkpoint_that_tells_nothing_wants_the_constructors_arguments(make_stage1, tmp_path: Path):
    module = make_stage1()
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "own.ckpt")
    with pytest.raises(BadConfig, match=r"missing a required .* `train` of this version did not write it; give them"):
        UNetStage1Module.load_from_checkpoint(tmp_path / "own.ckpt")
    parts = {name: getattr(module, name) for name in ("losses", "autoencoder", "unet", "scheduler", "clip")}
    assert_holds(UNetStage1Module.load_from_checkpoint(tmp_path / "own.ckpt", **parts), tmp_path / "own.ckpt")
    torch.save([], tmp_path / "list.ckpt")
    with pytest.raises(WrongWeights):
        UNetStage1Module.load_from_checkpoint(tmp_path / "list.ckpt")


@pytest.mark.parametrize("name", ["os.system", "lipsync_lightning.files.shutil.rmtree", "torch.hub.load"])
def test_a_checkpoint_runs_no_code_of_others(name: str, tmp_path: Path):
    told = {"_target_": "lipsync_lightning.modules.syncnet.SyncNetModule", "clip": None}
    torch.save({"state_dict": {}, BUILT_OF: told | {"syncnet": {"_target_": name}}}, tmp_path / "bad.ckpt")
    with pytest.raises(BadConfig, match=f"names {name}, which is not of a package that checkpoints may name"):
        SyncNetModule.load_from_checkpoint(tmp_path / "bad.ckpt")
