"""Several processes train as one does with their batches together, and none waits for another that is gone."""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from lipsync_lightning.callbacks.checkpoint import AtomicCheckpointIO
from lipsync_lightning.cli import build
from lipsync_lightning.files import CONF_DIR
from lipsync_lightning.modules.weights import newest_checkpoint
from train_process import (
    TrainProcess,
    arguments,
    diary,
    has_checkpoints,
    logged,
    rank_environments,
    small_shards,
    step_of,
    task_environments,
)

STEPS = 4
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shards(tmp_path_factory.mktemp("shards for two"))


@pytest.fixture(scope="module")
def broken_shards(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same shards, the picture of one training clip overwritten with zeros."""
    folder = tmp_path_factory.mktemp("broken") / "shards"
    shutil.copytree(shards, folder)
    newest = max((folder / "train").glob("*.tar"))
    with tarfile.open(newest) as archive:
        video = next(member for member in archive.getmembers() if member.name.endswith(".mp4"))
    with newest.open("r+b") as file:
        file.seek(video.offset_data)
        file.write(bytes(video.size))
    return folder


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    newest = newest_checkpoint(run_dir)
    assert newest is not None
    return torch.load(newest, weights_only=True)["state_dict"]


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF_DIR / "trainer").glob("*.yaml")))
def test_every_trainer_can_be_built(name: str, monkeypatch: pytest.MonkeyPatch):
    for variable, value in (
        task_environments(2)[0] | {"SLURM_NTASKS": "4", "SLURM_NNODES": "2"} if name == "slurm" else {}
    ).items():
        monkeypatch.setenv(variable, value)
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        config = compose("train", overrides=["+experiment=stage2", f"trainer={name}"]).trainer
    trainer = build(config, accelerator="cpu", logger=False, **({} if name == "slurm" else {"devices": 1}))
    assert trainer.world_size == (4 if name == "slurm" else 1)
    assert isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)


@pytest.mark.slow
def test_two_processes_lose_and_learn_what_one_does_with_the_same_windows(shards: Path, tmp_path: Path):
    common = (f"trainer.max_steps={STEPS}", "trainer.val_check_interval=2")
    TrainProcess(arguments(shards, tmp_path / "one", *common, "data.batch_size=8"), tmp_path / "one.txt").ends()
    # As users start it: a command that starts the second process itself.
    given = arguments(shards, tmp_path / "two", *common, *TWO, "data.batch_size=4")
    command = [sys.executable, "-m", "lipsync_lightning.train", *given]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    two = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert two.returncode == 0, two.stderr
    alone, together = logged(tmp_path / "one", "train/loss"), logged(tmp_path / "two", "train/loss")
    assert len(alone) == STEPS
    assert together == pytest.approx(alone, abs=1e-5)
    assert logged(tmp_path / "two", "val/loss") == pytest.approx(logged(tmp_path / "one", "val/loss"), abs=1e-3)
    expected = weights(tmp_path / "one")
    for name, tensor in weights(tmp_path / "two").items():
        if name.startswith("syncnet."):
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=2e-3, msg=name)


@pytest.mark.slow
def test_a_slurm_job_of_two_tasks_stops_at_its_signal_and_goes_on_as_one_process(shards: Path, tmp_path: Path):
    """Lightning would requeue the job itself and write a checkpoint of its own in the middle of a step."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f"#!/bin/sh\ntouch {tmp_path}/requeued\n")
    scontrol.chmod(0o755)
    run, notes = tmp_path / "run", tmp_path / "notes"
    watched = (
        "+callbacks.diary._target_=train_process.Diary",
        f"+callbacks.diary.folder={notes}",
        "checkpoint_every=2",
    )
    environments = task_environments(2, PATH=f"{scontrol.parent}:{os.environ['PATH']}")
    first = arguments(shards, run, *watched, *TWO, "data.num_workers=1", "trainer.max_steps=500")
    tasks = [TrainProcess(first, tmp_path / f"task {rank}.txt", environments[rank]) for rank in (0, 1)]
    tasks[0].until(lambda: has_checkpoints(run))
    for task in tasks:
        task.send(signal.SIGUSR1)
    said = [task.ends() for task in tasks]
    assert f"stopped by SIGUSR1 after step {step_of(run)}; the same command with ckpt_path=last goes on" in said[0]
    assert not (tmp_path / "requeued").exists()
    assert list(tmp_path.rglob("hpc_ckpt*")) == []

    stopped_at = step_of(run)
    then = arguments(shards, run, *watched, "ckpt_path=last", f"trainer.max_steps={stopped_at + 9}")
    TrainProcess(then, tmp_path / "alone.txt").ends()
    by_two, by_one = [diary(notes, rank, 2) for rank in (0, 1)], diary(notes, 0, 1)
    assert [len(of_rank) for of_rank in by_two] == [stopped_at] * 2
    assert [batch["step"] for batch in by_one] == list(range(stopped_at + 1, stopped_at + 10))
    seen = [seed for batch in (*by_two[0], *by_two[1], *by_one) for seed in batch["seeds"]]
    assert len(seen) == 2 * (2 * stopped_at + 9)
    assert set(Counter(seen).values()) == {1}  # a window has another seed in every epoch


@pytest.mark.slow
def test_what_is_not_finite_on_one_rank_is_skipped_by_all(shards: Path, tmp_path: Path):
    poison = ("+callbacks.poison._target_=train_process.Poison", "+callbacks.poison.rank=1", "+callbacks.poison.step=2")
    watched = ("+callbacks.diary._target_=train_process.Diary", f"+callbacks.diary.folder={tmp_path / 'notes'}")
    given = arguments(shards, tmp_path / "run", *TWO, *poison, *watched, "trainer.max_steps=5")
    processes = [TrainProcess(given, tmp_path / f"{rank}.txt", own) for rank, own in enumerate(rank_environments(2))]
    assert [
        process.ends().count("step 2: the gradient is not finite, the step is skipped") for process in processes
    ] == [1, 1]
    one, other = ([batch["weights"] for batch in diary(tmp_path / "notes", rank, 2)] for rank in (0, 1))
    assert one == other
    assert one[2] == one[1]
    assert len(set(one)) == 4
    assert logged(tmp_path / "run", "train/skipped_steps") == [0, 0, 1, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("broken_rank", [0, 1])
def test_a_rank_that_cannot_go_on_ends_all_at_once_with_one_sentence_each(
    shards: Path, broken_shards: Path, tmp_path: Path, broken_rank
):
    folders = (broken_shards, shards) if broken_rank == 0 else (shards, broken_shards)
    options = (*TWO, "trainer.max_steps=500", "data.max_bad_clips=0", "data.batch_size=4", "seed=2")
    processes = [
        TrainProcess(arguments(folders[rank], tmp_path / "run", *options), tmp_path / f"{rank}.txt", own)
        for rank, own in enumerate(rank_environments(2))
    ]
    said = [process.ends(1) for process in processes]
    assert "has another crc32" in said[broken_rank]
    assert "(more than data.max_bad_clips allows)" in said[broken_rank]
    assert "error: another process of this run has ended; its own message says why" in said[1 - broken_rank]
    assert "Traceback" not in "".join(said)
