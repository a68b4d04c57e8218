"""What trainers do by habit means what Lightning, Hydra and wandb say, or is refused and leaves all as it was."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from lipsync_lightning.commands.dashboard import identify, identity
from lipsync_lightning.commands.export import pipeline_of_run
from lipsync_lightning.errors import BadConfig, WrongWeights
from lipsync_lightning.files import owned
from lipsync_lightning.modules.weights import chosen_checkpoint, network_weights
from tiny_shards import write_real_shards
from train_process import CLIP, TrainProcess, arguments, logged, small_shards, step_of, unet_arguments


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shards(tmp_path_factory.mktemp("shards of habit"))


def syncnet(shards: Path, run: Path, *more: str, status: int = 0) -> str:
    return TrainProcess(arguments(shards, run, "checkpoint_every=2", *more), run.parent / "said.txt").ends(status)


def stage1(shards: Path, run: Path, *more: str, status: int = 0) -> str:
    return TrainProcess(unet_arguments(shards, run, "checkpoint_every=2", *more), run.parent / "said.txt").ends(status)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rates(run: Path) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row["lr-FusedAdamW"]) for row in csv.DictReader(file) if row.get("lr-FusedAdamW")]


@pytest.fixture(scope="module")
def finished(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage 1 of four steps, the last at a rate of nearly nothing."""
    run = tmp_path_factory.mktemp("habits") / "run"
    stage1(shards, run, "trainer.max_steps=4", "optimization@module.schedule=warmup_cosine", *NO_WARMUP)
    return run


NO_WARMUP = ("module.schedule.num_warmup_steps=0", "module.optimizer.lr=1.0e-3")


def copy_of(run: Path, folder: Path) -> Path:
    subprocess.run(["cp", "-r", str(run), str(folder / "run")], check=True)
    return folder / "run"


def test_a_resumed_run_takes_the_new_rate_says_so_and_keeps_what_it_was(shards: Path, tmp_path: Path):
    run = tmp_path / "run"
    syncnet(shards, run, "trainer.max_steps=2", "optimization@module.schedule=constant")
    again = ("trainer.max_steps=4", "optimization@module.schedule=constant", "ckpt_path=last")
    said = syncnet(shards, run, *again, "module.optimizer.lr=1.0e-6", "+module.optimizer.weight_decay=0.5")
    assert "module.optimizer.lr: 0.001 → 1e-06" in said
    assert rates(run) == [1e-6, 1e-6]
    group = torch.load(run / "checkpoints" / "step_00000004.ckpt")["optimizer_states"][0]["param_groups"][0]
    assert (group["lr"], group["weight_decay"]) == (1e-6, 0.5)
    before, now = (OmegaConf.load(run / name).module.optimizer.lr for name in ("config.000.yaml", "config.yaml"))
    assert (before, now) == (1e-3, 1e-6)


def test_an_extended_run_has_at_once_the_rate_of_its_new_schedule(shards: Path, finished: Path, tmp_path: Path):
    run = copy_of(finished, tmp_path)
    schedule = ("optimization@module.schedule=warmup_cosine", *NO_WARMUP, "ckpt_path=last")
    assert "is at step 4 of trainer.max_steps=4; give more" in stage1(shards, run, "trainer.max_steps=4", *schedule)
    stage1(shards, run, "trainer.max_steps=8", *schedule)
    assert rates(run)[0] == pytest.approx(0.5e-3)
    assert rates(run) == sorted(rates(run), reverse=True)


def test_a_dry_run_leaves_nothing(shards: Path, tmp_path: Path):
    run = tmp_path / "run"
    assert "a dry run: all of it works, and nothing is kept" in syncnet(shards, run, "+trainer.fast_dev_run=true")
    assert not run.exists()
    syncnet(shards, run, "trainer.max_steps=2")
    before = contents(run)
    syncnet(shards, run, "+trainer.fast_dev_run=2")
    assert contents(run) == before


OTHER = {
    "another size": (["module.unet.block_out_channels=[16,16,32]"], "module.unet.block_out_channels: [16, 16, 16] →"),
    "other parts train": (["module.trainable=[attentions.]"], "module.trainable"),
    "another target": (["models/scheduler@module.scheduler=ddim_epsilon"], "prediction_type: v_prediction → epsilon"),
    "other clips": (["clip.num_frames=12"], "clip.num_frames: 16 → 12"),
    "another sound": (["audio_encoder.num_tokens=7"], "audio_encoder.num_tokens"),
}


@pytest.mark.parametrize("other", OTHER)
def test_a_run_that_cannot_go_on_so_is_refused_and_is_as_it_was(shards: Path, finished: Path, tmp_path: Path, other):
    run = copy_of(finished, tmp_path)
    (run / "metrics.csv").write_text("step,train/loss\n3,1.0\n")
    before, (changes, told) = contents(run), OTHER[other]
    schedule = ("optimization@module.schedule=warmup_cosine", *NO_WARMUP)
    said = stage1(shards, run, "trainer.max_steps=8", "ckpt_path=last", *schedule, *changes, status=1)
    assert "Traceback" not in said
    assert told in said
    assert "init_from=" in said
    assert {key: value for key, value in contents(run).items() if key != ".lock"} == {
        key: value for key, value in before.items() if key != ".lock"
    }


@pytest.mark.parametrize("wrong", ["a network's weights", "another module's checkpoint", "of a newer version"])
def test_a_checkpoint_of_something_else_is_refused_in_a_sentence(shards: Path, finished: Path, tmp_path: Path, wrong):
    run = copy_of(finished, tmp_path)
    paths = {
        "a network's weights": run / "unet" / "diffusion_pytorch_model.safetensors",
        "another module's checkpoint": run / "checkpoints" / "step_00000004.ckpt",
        "of a newer version": run / "checkpoints" / "step_00000004.ckpt",
    }
    told = "init_from="
    if wrong == "of a newer version":
        state = torch.load(paths[wrong])
        torch.save(state | {"lipsync_lightning": [99, 0, 0]}, paths[wrong])
        told = "was written by version 99.0.0 of lipsync_lightning"
    said = syncnet(shards, tmp_path / "new", f"ckpt_path={paths[wrong]}", "trainer.max_steps=9", status=1)
    assert "Traceback" not in said
    assert told in said
    assert not (tmp_path / "new" / "config.yaml").exists()


def test_a_run_that_averages_is_not_gone_on_with_without(shards: Path, tmp_path: Path):
    run, callbacks = tmp_path / "run", "callbacks=[syncnet,ema]"
    syncnet(shards, run, "trainer.max_steps=2", callbacks)
    said = syncnet(shards, run, "trainer.max_steps=4", "ckpt_path=last", status=1)
    assert "averages its weights, this command does not: name ema among callbacks=" in said
    syncnet(shards, run, "trainer.max_steps=4", "ckpt_path=last", callbacks)


def test_two_runs_in_one_folder_are_one_too_many_and_a_crash_frees_it(shards: Path, tmp_path: Path):
    run = tmp_path / "run"
    holding = f"from lipsync_lightning.files import owned; from pathlib import Path\nwith owned(Path({str(run)!r})): "
    other = subprocess.Popen(
        [sys.executable, "-c", holding + "print('in', flush=True); import time; time.sleep(60)"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "in\n"
    said = syncnet(shards, run, "trainer.max_steps=2", status=1)
    assert f"error: process {other.pid} on {os.uname().nodename} is at work in {run}; wait" in said
    assert [path.name for path in run.iterdir()] == [".lock"]
    other.kill()
    other.wait()
    syncnet(shards, run, "trainer.max_steps=2")
    with owned(run), pytest.raises(Exception, match="this process is at work"), owned(run):
        pass


def test_a_renamed_run_goes_on_as_itself_and_its_old_checkpoints_count(shards: Path, tmp_path: Path):
    syncnet(shards, tmp_path / "before", "trainer.max_steps=4")
    (tmp_path / "before").rename(tmp_path / "after")
    said = syncnet(shards, tmp_path / "after", "trainer.max_steps=8", "ckpt_path=last")
    names = sorted(path.name for path in (tmp_path / "after" / "checkpoints").iterdir())
    assert names == ["step_00000006.ckpt", "step_00000008.ckpt"]
    assert "dirpath" not in said
    assert not (tmp_path / "before").exists()


def test_the_best_is_kept_beside_the_newest_and_can_be_chosen(shards: Path, finished: Path, tmp_path: Path):
    run = tmp_path / "run"
    best = ["callbacks.checkpoint.monitor=train/gradient_norm", "callbacks.checkpoint.num_best=2"]
    validated = ["trainer.val_check_interval=1", "trainer.limit_val_batches=1"]
    stage1(shards, run, "trainer.max_steps=4", *best, *validated)
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert len([name for name in names if name.startswith("best_")]) == 2
    assert [name for name in names if name.startswith("step_")] == ["step_00000002.ckpt", "step_00000004.ckpt"]
    chosen = chosen_checkpoint(run, "best")
    assert chosen is not None
    step = int(chosen.stem.removeprefix("best_"))
    weights = [network_weights(str(run), "unet", which) for which in ("best", step)]
    assert all(torch.equal(own, weights[1][name]) for name, own in weights[0].items())
    pipeline_of_run(run, None, None, "own_frames", checkpoint="best")
    with pytest.raises(WrongWeights, match=r"checkpoint=99: .* has steps \["):
        network_weights(str(run), "unet", 99)
    with pytest.raises(WrongWeights, match=r"kept no best checkpoint; .*callbacks\.checkpoint\.monitor="):
        network_weights(str(finished), "unet", "best")
    said = stage1(
        shards, tmp_path / "no", "trainer.max_steps=2", "callbacks.checkpoint.monitor=val/x", *validated, status=1
    )
    assert "callbacks.checkpoint.monitor=val/x is not logged; there are ['val/loss'" in said


def test_an_exchanged_part_keeps_nothing_of_the_former_one(shards: Path, tmp_path: Path):
    run = tmp_path / "run"
    said = syncnet(shards, run, "trainer.max_steps=1", "optimization@module.schedule=constant")
    assert "optimization@module.schedule=constant: without num_warmup_steps=20, said of the part before" in said
    assert "num_warmup_steps" not in OmegaConf.load(run / "config.yaml").module.schedule


def test_the_configuration_of_a_run_runs_again_in_another_folder(shards: Path, tmp_path: Path):
    first, second = tmp_path / "first", tmp_path / "second"
    syncnet(shards, first, "trainer.max_steps=3")
    repeated = ["--config-path", str(first), "--config-name", "config", f"run_dir={second}"]
    TrainProcess(repeated, tmp_path / "again.txt").ends()
    assert step_of(second) == 3
    assert logged(second, "train/loss") == logged(first, "train/loss")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_each_precision_that_is_served_trains_a_step(shards: Path, tmp_path: Path, precision: str):
    stage1(shards, tmp_path / "run", "trainer.max_steps=1", f"trainer.precision={precision}")
    assert step_of(tmp_path / "run") == 1


REFUSED = {
    "trainer.precision=64-true": "give bf16-mixed, 16-mixed or 32-true",
    "trainer.precision=bf16-true": "give bf16-mixed, 16-mixed or 32-true",
    "trainer.limit_train_batches=0.001": "Please increase the `limit_train_batches` argument",
    "+trainer.overfit_batches=0.001": "Please increase the `limit_train_batches` argument",
    "trainer.check_val_every_n_epoch=1 trainer.val_check_interval=99": "(99) must be less than or equal to the number",
    "data.num_workers=-1": "0 or more workers",
    "data.batch_size=0": "give 1 or more windows",
    "data.batch_size=1000": "in all; give fewer, or raise data.samples.windows_per_clip",
    "trainer.accelerator=quantum": "invalid accelerator name",
    "trainer.max_steps=-7": "`max_steps` must be",
    "+trainer.reload_dataloaders_every_n_epochs=1": "shards are read as they were when the run began",
    "module.trainable=[atention]": "no parameter's name contains 'atention'; did you mean attentions",
    "module.trainable=[attn2,atention]": "no parameter's name contains 'atention'",
}


@pytest.mark.parametrize("given", REFUSED)
def test_what_cannot_be_served_is_refused_in_a_sentence(shards: Path, tmp_path: Path, given: str):
    said = stage1(shards, tmp_path / "run", "trainer.max_steps=2", *given.split(), status=1)
    assert "Traceback" not in said
    assert REFUSED[given] in said
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_run_of_epochs_has_a_schedule_of_as_many_steps(shards: Path, tmp_path: Path):
    epochs = ("trainer.max_epochs=2", "trainer.max_steps=-1", *NO_WARMUP)
    syncnet(shards, tmp_path / "run", *epochs)
    assert step_of(tmp_path / "run") == 12
    assert rates(tmp_path / "run")[6] == pytest.approx(0.5e-3)
    said = syncnet(shards, tmp_path / "run", *epochs, "ckpt_path=last")
    assert "has made 2 passes of trainer.max_epochs=2; give more" in said


def test_wandb_knows_a_run_by_its_folder_and_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = OmegaConf.create({"logger": {"wandb": {"offline": True, "group": "mine"}}, "module": {"lr": 1e-3}})
    identify(config, tmp_path)
    first = config.logger.wandb.id
    config.logger.wandb.id = None
    identify(config, tmp_path)
    assert (config.logger.wandb.id, config.logger.wandb.resume) == (first, "allow")
    told = identity(config, {"train/000000.tar": "abc"})
    assert told["module"] == {"lr": 1e-3}
    assert told["data_sha256"] != identity(config, {"train/000000.tar": "abd"})["data_sha256"]
    assert {"torch", "lightning", "lipsync-lightning", "python"} <= told["versions"].keys()


def test_wandb_online_without_a_login_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    with pytest.raises(BadConfig, match="nobody is logged in; run `wandb login`"):
        identify(OmegaConf.create({"logger": {"wandb": {"offline": False}}}), tmp_path)


def test_keys_as_wandb_s_agent_gives_them_are_understood(shards: Path, tmp_path: Path):
    given = [f"--{each}" for each in arguments(shards, tmp_path / "run", "trainer.max_steps=1")[1:]]
    TrainProcess(["+experiment=demo/syncnet", *given], tmp_path / "said.txt").ends()
    assert step_of(tmp_path / "run") == 1


@pytest.mark.parametrize(("lengths", "batch_size"), [([20], 2), ([20, 20], 2), ([47], 3), ([20, 20, 20], 2)])
def test_few_held_out_windows_say_what_they_cannot_tell_and_training_goes_on(tmp_path: Path, lengths, batch_size):
    shards = write_real_shards(tmp_path / "shards", "train", [[44, 45], [46]], CLIP)
    write_real_shards(shards, "heldout", [lengths], CLIP)
    given = ("trainer.max_steps=2", "trainer.val_check_interval=1", f"data.batch_size={batch_size}")
    said = syncnet(shards, tmp_path / "run", *given)
    assert ("a single held-out window has no foreign sound: no AUC, no accuracy" in said) == (lengths == [20])
    assert step_of(tmp_path / "run") == 2


def test_a_batch_of_one_window_teaches_a_syncnet_nothing_and_is_refused(shards: Path, tmp_path: Path):
    said = syncnet(shards, tmp_path / "run", "trainer.max_steps=2", "data.batch_size=1", status=1)
    assert "Traceback" not in said
    assert "raise data.batch_size to 2 or more" in said
