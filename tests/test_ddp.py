"""Two processes train as one does with their batches together. Run as users do: a command that starts the second process itself."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.modules.weights import newest_checkpoint
from tiny_media import prepared, sound_of, write_video

CLIP = ClipSpec(num_frames=16, fps=25, resolution=64, sample_rate_hz=16000, mel_hz=80, num_mels=80)
STEPS = 4


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards for two")
    for index in range(4):
        write_video(folder / "raw" / f"person {index}.mp4", 44 + index, sound_of(44 + index, loud=range(index, 40, 3)))
    prepared(folder / "raw", folder / "shards", CLIP, sources_per_shard=2, num_heldout=1, min_seconds=1.28, max_seconds=4.0)
    return folder / "shards"


def command(shards: Path, run_dir: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        *("-m", "lipsync_lightning.train", "+experiment=demo/syncnet", f"data.shards={shards}", f"run_dir={run_dir}", "logger=csv"),
        *(f"trainer.max_steps={STEPS}", "trainer.log_every_n_steps=1", "trainer.val_check_interval=2", "data.num_workers=0"),
        *more,
    ]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run(shards: Path, run_dir: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(shards, run_dir, *more), env=environment(), capture_output=True, text=True, timeout=200)


def logged(run_dir: Path, column: str) -> list[float]:
    with (run_dir / "metrics.csv").open() as file:
        return [float(row[column]) for row in csv.DictReader(file) if row.get(column)]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    newest = newest_checkpoint(run_dir)
    assert newest is not None
    return torch.load(newest, weights_only=True)["state_dict"]


TWO = ("trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=4")


@pytest.mark.slow
def test_two_processes_lose_and_learn_what_one_does_with_the_same_windows(shards, tmp_path):
    one = run(shards, tmp_path / "one", "data.batch_size=8")
    assert one.returncode == 0, one.stderr
    two = run(shards, tmp_path / "two", *TWO)
    assert two.returncode == 0, two.stderr
    alone, together = logged(tmp_path / "one", "train/loss"), logged(tmp_path / "two", "train/loss")
    assert len(alone) == STEPS
    assert together == pytest.approx(alone, abs=1e-5)
    assert logged(tmp_path / "two", "val/loss") == pytest.approx(logged(tmp_path / "one", "val/loss"), abs=1e-3)
    expected = weights(tmp_path / "one")
    for name, tensor in weights(tmp_path / "two").items():
        if name.startswith("syncnet."):
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=2e-3, msg=name)
