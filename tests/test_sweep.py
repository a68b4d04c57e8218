"""Sweeps: every job in a folder of its own, one that fails does not take the others, and a sweep that is started again goes on."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lipsync_lightning.files import CONF_DIR
from train_process import TrainProcess, arguments, logged, small_shards, step_of

HPARAMS = sorted(path.stem for path in (CONF_DIR / "hparams").glob("*.yaml"))
RATES = "module.optimizer.lr=1.0e-3,-1.0,1.0e-4"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shards(tmp_path_factory.mktemp("shards to sweep on"))


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        return compose("train", overrides=list(overrides), return_hydra_config=True)


@pytest.mark.parametrize("experiment", ["stage2", "demo/stage2"])
@pytest.mark.parametrize("name", HPARAMS)
def test_every_sweep_sets_what_is_there_and_names_each_folder_after_it(name: str, experiment: str):
    config = composed(f"+experiment={experiment}", f"+hparams={name}")
    assert config.hydra.mode == RunMode.MULTIRUN
    folders = set()
    for key, values in config.hydra.sweeper.params.items():
        assert OmegaConf.select(config, key) is not None, key
        (sweep,) = OverridesParser.create().parse_overrides([f"{key}={values}"])
        for value in sweep.sweep_string_iterator():
            job = composed(f"+experiment={experiment}", f"+hparams={name}", f"{key}={value}")
            folders.add(job.hydra.sweep.subdir)
        assert len(folders) == len(list(sweep.sweep_string_iterator())) > 1


def sweep(shards: Path, folder: Path, *more: str, status: int) -> str:
    common = ("+hparams=learning_rate", RATES, "checkpoint_every=2")
    return TrainProcess(arguments(shards, folder / "run", *common, *more), folder / "said.txt").ends(status)


@pytest.mark.slow
def test_a_failing_job_does_not_take_the_others_and_a_sweep_that_is_started_again_goes_on(shards: Path, tmp_path: Path):
    good = [tmp_path / "run" / "sweep" / f"learning_rate_{rate}" for rate in ("0.001", "0.0001")]
    bad = tmp_path / "run" / "sweep" / "learning_rate_-1.0"

    said = sweep(shards, tmp_path, "trainer.max_steps=2", status=1)
    assert "Invalid learning rate: -1.0" in said
    assert "'module.optimizer.lr=-1.0'" in said
    assert not (bad / "syncnet").exists()
    assert [(run / "syncnet").is_dir() for run in good] == [True, True]
    configs = [OmegaConf.load(run / "config.yaml") for run in good]
    assert [config.module.optimizer.lr for config in configs] == [0.001, 0.0001]
    assert [config.run_dir for config in configs] == [str(run) for run in good]
    assert [logged(run, "step")[-1] for run in good] == [1.0, 1.0]

    said = sweep(shards, tmp_path, "trainer.max_steps=3", status=1)
    for run in good:
        assert f"error: {run} already holds a run (step_00000002.ckpt); continue it with ckpt_path=last" in said
        assert step_of(run) == 2

    sweep(shards, tmp_path, "trainer.max_steps=3", "ckpt_path=last", status=1)
    assert [step_of(run) for run in good] == [3, 3]
    assert [logged(run, "step") for run in good] == [[2.0, 2.0]] * 2
    assert not (bad / "syncnet").exists()


@pytest.mark.slow
def test_every_job_of_a_sweep_is_a_wandb_run_of_its_own(shards: Path, tmp_path: Path):
    both = [
        argument
        for argument in arguments(shards, tmp_path / "run", "seed=1,2", "trainer.max_steps=1")
        if argument != "logger=csv"
    ]
    TrainProcess(["-m", *both, "logger=wandb"], tmp_path / "said.txt").ends()
    for job in ("0", "1"):
        assert len(list((tmp_path / "run" / "sweep" / job / "wandb").glob("offline-run-*"))) == 1


def test_a_sweep_whose_jobs_would_need_several_processes_each_is_refused(shards: Path, tmp_path: Path):
    common = ("seed=1,2", "trainer.max_steps=1", "trainer.devices=2", "trainer.strategy=ddp")
    said = TrainProcess(["-m", *arguments(shards, tmp_path / "run", *common)], tmp_path / "said.txt").ends(1)
    assert "error: the jobs of this sweep run in one process and cannot start 2 each; give trainer.devices=1" in said


@pytest.mark.slow
@pytest.mark.skipif(find_spec("submitit") is None, reason="pip install lipsync-lightning[slurm] brings submitit")
def test_submitit_runs_every_job_in_a_process_of_its_own(shards: Path, tmp_path: Path):
    common = ("seed=1,2", "trainer.max_steps=1", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5")
    TrainProcess(["-m", *arguments(shards, tmp_path / "run", *common)], tmp_path / "said.txt").ends()
    runs = [tmp_path / "run" / "sweep" / job for job in ("0", "1")]
    assert [(run / "syncnet").is_dir() for run in runs] == [True, True]
    assert [step_of(run) for run in runs] == [1, 1]
