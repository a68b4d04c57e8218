"""From a drawn corpus to a resumed run, through the entry points themselves."""

from pathlib import Path

import pytest

from command_line import CommandLine
from lipsync_lightning.models.syncnet import StableSyncNet
from lipsync_lightning.prepare import main as prepare
from lipsync_lightning.synthesize import main as synthesize
from lipsync_lightning.train import main as train
from train_process import logged


@pytest.mark.slow
def test_a_run_is_refused_a_second_time_and_resumed_with_its_log_kept_and_its_network_saved(command_line: CommandLine):
    command_line.run(synthesize, "out=raw", "people.train=2", "people.heldout=2", "clips_per_person=1", "seconds=2.5")
    source = ("recipe=synthetic", "recipe.source=raw", "clip=demo_64px")
    out = command_line.run(prepare, *source, "out=shards", "executor.num_workers=0")
    assert "4 kept, 0 rejected, 0 failed" in out

    small = ["+experiment=demo/syncnet", "data.shards=shards", "run_dir=run", "data.batch_size=4", "data.num_workers=0"]
    small += ["logger=csv", "trainer.log_every_n_steps=1", "trainer.val_check_interval=2"]
    command_line.run(train, *small, "trainer.max_steps=2")
    stored = Path("run/config.yaml").read_text()
    assert "already holds a run" in command_line.refusal(train, *small, "trainer.max_steps=2", "seed=7")
    assert Path("run/config.yaml").read_text() == stored
    first_log = Path("run/metrics.csv").read_text()

    command_line.run(train, *small, "trainer.max_steps=4", "ckpt_path=last")
    assert Path("run/metrics.000.csv").read_text() == first_log
    assert logged(Path("run"), "step")[0] > 1
    StableSyncNet.from_pretrained("run/syncnet")
