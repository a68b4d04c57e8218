"""Sweeps: every job in a folder of its own, one that fails does not take the others, one started again goes on."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from train_process import TrainProcess, arguments, logged, small_shards, step_of


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shards(tmp_path_factory.mktemp("shards to sweep on"))


def sweep(shards: Path, folder: Path, *more: str, status: int = 0) -> str:
    return TrainProcess(["-m", *arguments(shards, folder / "run", *more)], folder / "said.txt").ends(status)


@pytest.mark.slow
def test_a_failing_job_does_not_take_the_others_and_a_sweep_that_is_started_again_goes_on(shards: Path, tmp_path: Path):
    first, bad, last = (tmp_path / "run" / "sweep" / job for job in ("0", "1", "2"))
    rates = ("module.optimizer.lr=1.0e-3,-1.0,1.0e-4", "checkpoint_every=2")

    said = sweep(shards, tmp_path, *rates, "trainer.max_steps=2", "logger=wandb", status=1)
    assert "Traceback" not in said
    assert "Invalid learning rate: -1.0" in said
    assert "'module.optimizer.lr=-1.0'" in said
    assert [(run / "syncnet").is_dir() for run in (first, bad, last)] == [True, False, True]
    configs = [OmegaConf.load(run / "config.yaml") for run in (first, last)]
    assert [(config.module.optimizer.lr, config.run_dir) for config in configs] == [
        (1e-3, str(first)),
        (1e-4, str(last)),
    ]
    assert [logged(run, "step")[-1] for run in (first, last)] == [1.0, 1.0]
    assert [len(list((run / "wandb").glob("offline-run-*"))) for run in (first, last)] == [1, 1], "a wandb run for each"

    sweep(shards, tmp_path, *rates, "trainer.max_steps=3", "ckpt_path=last", status=1)
    assert [(step_of(run), logged(run, "step")) for run in (first, last)] == [(3, [2.0, 2.0])] * 2


def test_a_sweep_whose_jobs_would_need_several_processes_each_is_refused(shards: Path, tmp_path: Path):
    two = ("seed=1,2", "trainer.max_steps=1", "trainer.devices=2", "trainer.strategy=ddp")
    said = sweep(shards, tmp_path, *two, status=1)
    assert "error: the jobs of this sweep run in one process and cannot start 2 each; give trainer.devices=1" in said


@pytest.mark.slow
@pytest.mark.skipif(find_spec("submitit") is None, reason="pip install lipsync-lightning[slurm] brings submitit")
def test_submitit_pickles_a_job_and_runs_it_in_a_process_of_its_own(shards: Path, tmp_path: Path):
    launched = ("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5")
    sweep(shards, tmp_path, "seed=1", "trainer.max_steps=1", *launched)
    run = tmp_path / "run" / "sweep" / "0"
    assert (run / "syncnet").is_dir()
    assert step_of(run) == 1
