"""From a drawn corpus to a resumed run, through the entry points themselves."""

import csv
from pathlib import Path

import pytest

from command_line import CommandLine
from lipsync_lightning.models.syncnet import StableSyncNet
from lipsync_lightning.prepare import main as prepare
from lipsync_lightning.synthesize import main as synthesize
from lipsync_lightning.train import main as train


@pytest.fixture
def command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(tmp_path, monkeypatch, capfd)


@pytest.fixture
def shards(command_line: CommandLine) -> Path:
    people = ["people.train=2", "people.heldout=2", "clips_per_person=1", "seconds=2.5", "num_workers=1"]
    command_line.run(synthesize, "out=raw", *people)
    out = command_line.run(
        prepare, "recipe=synthetic", "recipe.source=raw", "clip=demo_64px", "out=shards", "executor.num_workers=0"
    )
    assert "4 clips in shards\n4 sources: 4 kept, 0 rejected, 0 failed" in out
    return Path("shards")


def logged_steps(log: Path) -> list[int]:
    with log.open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]


def test_a_run_is_resumed_with_its_log_kept_and_its_network_saved(shards: Path, command_line: CommandLine):
    small = [
        "+experiment=demo/syncnet",
        f"data.shards={shards}",
        "run_dir=run",
        "data.batch_size=4",
        "data.num_workers=0",
    ]
    small += ["trainer.log_every_n_steps=1", "trainer.val_check_interval=2", "+trainer.enable_progress_bar=false"]
    command_line.run(train, *small, "trainer.max_steps=2", "logger=csv")
    command_line.run(train, *small, "trainer.max_steps=4", "logger=csv", "ckpt_path=last")
    assert logged_steps(Path("run/metrics.000.csv")) == [0, 1]
    resumed = logged_steps(Path("run/metrics.csv"))
    assert len(resumed) == 2
    assert min(resumed) > 1
    StableSyncNet.from_pretrained("run/syncnet")


def test_a_refused_run_leaves_the_stored_configuration_alone(shards: Path, command_line: CommandLine):
    small = [
        "+experiment=demo/syncnet",
        f"data.shards={shards}",
        "run_dir=run",
        "data.batch_size=4",
        "data.num_workers=0",
    ]
    small += [
        "trainer.max_steps=1",
        "trainer.val_check_interval=1",
        "logger=none",
        "+trainer.enable_progress_bar=false",
    ]
    command_line.run(train, *small)
    stored = Path("run/config.yaml").read_text()
    assert "already holds a run" in command_line.refusal(train, *small, "seed=7")
    assert Path("run/config.yaml").read_text() == stored
