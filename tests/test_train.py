from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from command_line import CommandLine
from lipsync_lightning.errors import BadConfig, WouldOverwrite, WrongWeights
from lipsync_lightning.train import checkpoint_to_resume, main, told_of_another_target


@pytest.fixture
def command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(tmp_path, monkeypatch, capfd)


@pytest.fixture
def used_run(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for step in (90, 100):
        torch.save({"state_dict": {}}, run / "checkpoints" / f"step_{step:08d}.ckpt")
    return run


def test_a_new_run_resumes_nothing(tmp_path: Path):
    assert checkpoint_to_resume(None, tmp_path) is None
    assert checkpoint_to_resume("last", tmp_path) is None


def test_last_is_the_checkpoint_of_the_highest_step(used_run: Path):
    assert checkpoint_to_resume("last", used_run) == used_run / "checkpoints" / "step_00000100.ckpt"


def test_a_broken_newest_checkpoint_falls_back_to_the_one_before_with_a_warning(used_run: Path):
    newest, before = (used_run / "checkpoints" / f"step_{step:08d}.ckpt" for step in (100, 90))
    newest.write_bytes(newest.read_bytes()[:-200])
    with pytest.warns(UserWarning, match=r"step_00000100\.ckpt cannot be read \(its end is missing"):
        assert checkpoint_to_resume("last", used_run) == before
    assert sorted(path.name for path in before.parent.iterdir()) == ["step_00000090.ckpt", "step_00000100.ckpt.broken"]
    before.write_bytes(b"")
    for _ in range(2):  # and not a new run the second time
        with (
            pytest.warns(UserWarning, match="cannot be read"),
            pytest.raises(WrongWeights, match="none of the 1 checkpoints"),
        ):
            checkpoint_to_resume("last", used_run)


def test_a_used_run_folder_is_not_written_into_again(used_run: Path):
    with pytest.raises(
        WouldOverwrite, match=r"already holds a run \(step_00000100.ckpt\); continue it with ckpt_path=last"
    ):
        checkpoint_to_resume(None, used_run)


def test_a_named_checkpoint_must_be_there(used_run: Path):
    named = used_run / "checkpoints" / "step_00000090.ckpt"
    assert checkpoint_to_resume(str(named), used_run) == named
    with pytest.raises(BadConfig, match=r"ckpt_path=nowhere\.ckpt is not a file"):
        checkpoint_to_resume("nowhere.ckpt", used_run)


def test_an_unknown_experiment_is_refused_naming_the_known_ones(command_line: CommandLine):
    refused = command_line.refusal(main, "+experiment=stage9")
    assert "experiment/stage9" in refused
    assert "stage2" in refused


def test_a_misspelt_key_is_refused(command_line: CommandLine):
    assert "batch_sise" in command_line.refusal(main, "+experiment=demo/syncnet", "data.batch_sise=3")
    assert "batch_sise" in command_line.refusal(main, "+experiment=demo/syncnet", "+data.batch_sise=3")


def test_settings_of_a_callback_that_was_replaced_are_refused_with_the_way_to_keep_both(command_line: CommandLine):
    refused = command_line.refusal(main, "+experiment=demo/syncnet", "callbacks=ema")
    assert refused.startswith("error: callbacks.plateau has settings here but is no longer there")
    assert "'callbacks=[syncnet,ema]'" in refused


@pytest.mark.parametrize(
    ("key", "there", "here"),
    [("prediction_type", "epsilon", "v_prediction"), ("prediction_type", "epsilon", "epsilon")],
)
def test_a_start_from_weights_of_another_target_is_told(tmp_path: Path, key: str, there: str, here: str):
    OmegaConf.save(OmegaConf.create({"module": {"scheduler": {key: there}}}), tmp_path / "config.yaml")
    told = told_of_another_target(str(tmp_path), OmegaConf.create({"module": {"scheduler": {key: here}}}))
    assert (told is None) == (there == here)
    assert told is None or f"({key} {there} there, {here} here)" in told
    assert (
        told_of_another_target(str(tmp_path / "no run"), OmegaConf.create({"module": {"scheduler": {key: here}}}))
        is None
    )


def test_missing_shards_are_told_before_anything_else(command_line: CommandLine):
    refused = command_line.refusal(main, "+experiment=demo/syncnet", "demo_dir=none")
    assert refused.startswith("error: no shards at none/shards")
    assert refused.endswith("out=none/shards")


def test_a_used_run_folder_and_a_checkpoint_that_is_nowhere_are_refused(command_line: CommandLine, used_run: Path):
    assert "already holds a run" in command_line.refusal(main, "+experiment=demo/syncnet", f"run_dir={used_run}")
    assert "is not a file" in command_line.refusal(
        main, "+experiment=demo/syncnet", f"run_dir={used_run}", "ckpt_path=nowhere.ckpt"
    )
