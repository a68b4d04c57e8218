"""A training that is killed, signalled and loses its newest checkpoint ends like one never stopped, to the bit."""

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lipsync_lightning.modules.weights import checkpoints_of
from train_process import TrainProcess, arguments, has_checkpoints, small_shards, step_of

STEPS = 30
EVERY = 4


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shards(tmp_path_factory.mktemp("shards that survive"))


def saved(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "syncnet" / "diffusion_pytorch_model.safetensors")


def written_at(folder: Path) -> list[int]:
    return [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]


@pytest.mark.slow
def test_a_run_that_is_killed_signalled_and_loses_its_newest_checkpoint_ends_as_if_never_stopped(
    shards: Path, tmp_path: Path
):
    def begin(name: str, *more: str) -> TrainProcess:
        common = ("data.num_workers=1", f"trainer.max_steps={STEPS}", f"checkpoint_every={EVERY}")
        return TrainProcess(arguments(shards, tmp_path / name, *common, *more), tmp_path / f"{name}.txt")

    begin("straight").ends()
    run = tmp_path / "stopped"

    killed = begin("stopped")
    killed.until(lambda: has_checkpoints(run))
    killed.send_to_group(signal.SIGKILL)
    killed.ends(-signal.SIGKILL)
    at_kill = step_of(run)
    assert at_kill % EVERY == 0
    assert at_kill < STEPS

    stopped = begin("stopped", "ckpt_path=last")
    stopped.until(lambda: has_checkpoints(run, num=2, after=at_kill))
    stopped.send_to_group(signal.SIGTERM)
    said = stopped.ends()
    assert f"stopped by SIGTERM after step {step_of(run)}; the same command with ckpt_path=last goes on" in said
    assert at_kill < step_of(run) < STEPS
    assert saved(run), "a stopped run leaves its networks too"

    newest, *_ = checkpoints_of(run)
    newest.write_bytes(newest.read_bytes()[:-1000])
    said = begin("stopped", "ckpt_path=last").ends()
    assert f"{newest.name} is set aside as {newest.name}.broken; the checkpoint before it is taken" in said

    before = written_at(run / "syncnet")
    assert f"is at step {STEPS} of trainer.max_steps={STEPS}" in begin("stopped", "ckpt_path=last").ends()
    assert written_at(run / "syncnet") == before

    expected, actual = saved(tmp_path / "straight"), saved(run)
    assert [name for name in expected if not torch.equal(actual[name], expected[name])] == []
