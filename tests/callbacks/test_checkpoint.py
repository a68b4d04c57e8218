import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback

from lipsync_lightning.callbacks.checkpoint import AtomicCheckpointIO, StepCheckpoint
from lipsync_lightning.errors import NoSpace
from lipsync_lightning.modules.weights import newest_checkpoint
from small_training import FailAt, Line, factors, fit


def train(run_dir: Path, steps: int, *more: Callback, ckpt_path: Path | None = None) -> list[str]:
    callback = StepCheckpoint(run_dir=str(run_dir), every_num_steps=3, num_kept=2)
    limits = {"max_steps": steps, "max_epochs": -1, "enable_checkpointing": True}
    fit(Line(), factors(*[1.0] * 20), callback, *more, ckpt_path=ckpt_path, **limits)
    return saved(run_dir)


def saved(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


@pytest.mark.parametrize(("steps", "kept"), [(12, [9, 12]), (8, [6, 8]), (2, [2])])
def test_the_newest_are_kept_and_the_last_step_whenever_it_comes(tmp_path, steps, kept):
    assert train(tmp_path, steps) == [f"step_{step:08d}.ckpt" for step in kept]


@pytest.mark.parametrize("every", [1, 2, 3])
def test_no_checkpoint_waits_for_a_validation_that_does_not_come(tmp_path, every):
    class Validated(Line):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

    checkpoint = StepCheckpoint(run_dir=str(tmp_path), every_num_steps=every, num_kept=9)
    limits = {"max_epochs": -1, "max_steps": 7, "val_check_interval": 100, "check_val_every_n_epoch": None}
    limits["enable_checkpointing"] = True
    fit(Validated(), factors(1, 1), checkpoint, val=factors(1), **limits)
    assert saved(tmp_path) == [f"step_{step:08d}.ckpt" for step in sorted({*range(every, 8, every), 7})]


def test_a_run_that_fails_leaves_the_step_it_reached(tmp_path):
    with pytest.raises(OSError, match="the disk is gone"):
        train(tmp_path, 12, FailAt(5))
    assert "step_00000005.ckpt" in saved(tmp_path)


def test_a_run_that_was_resumed_often_goes_on_and_keeps_no_more_than_one_that_was_not(tmp_path):
    train(tmp_path, 4)
    for steps in (8, 12):
        left = train(tmp_path, steps, ckpt_path=newest_checkpoint(tmp_path))
    assert left == ["step_00000009.ckpt", "step_00000012.ckpt"]
    assert torch.load(tmp_path / "checkpoints" / left[1], weights_only=True)["global_step"] == 12


def test_a_run_that_goes_on_from_an_earlier_checkpoint_leaves_the_later_ones_aside(tmp_path):
    train(tmp_path, 8)
    earlier = tmp_path / "checkpoints" / "step_00000006.ckpt"
    with pytest.warns(UserWarning, match="goes on from step 6; 1 later checkpoints are set aside"):
        left = train(tmp_path, 8, ckpt_path=earlier)
    assert left == [earlier.name, "step_00000008.ckpt", "step_00000008.ckpt.later"]


def test_a_full_disk_is_told_in_a_sentence_and_costs_no_former_checkpoint(tmp_path, monkeypatch):
    AtomicCheckpointIO().save_checkpoint({"step": 1}, tmp_path / "step_1.ckpt")

    def save(checkpoint, file):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("[enforce fail at inline_container.cc] unexpected pos")  # noqa: B904, as torch does

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(NoSpace, match=r"has no room for step_2\.ckpt; make room and go on with ckpt_path=last"):
        AtomicCheckpointIO().save_checkpoint({"step": 2}, tmp_path / "step_2.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["step_1.ckpt"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_former_and_no_half(tmp_path, monkeypatch):
    AtomicCheckpointIO().save_checkpoint({"step": 1}, tmp_path / "a.ckpt")
    monkeypatch.setattr(torch, "save", lambda checkpoint, file: file.write(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        AtomicCheckpointIO().save_checkpoint({"step": 2}, tmp_path / "a.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]
    assert torch.load(tmp_path / "a.ckpt", weights_only=True) == {"step": 1}
