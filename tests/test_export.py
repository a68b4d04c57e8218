from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from command_line import CommandLine
from lipsync_lightning.export import main
from lipsync_lightning.pipeline.lipsync import load_pipeline


@pytest.fixture
def command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(tmp_path, monkeypatch, capfd)


def test_an_export_holds_the_runs_newest_weights_and_its_clip(run: Path, command_line: CommandLine):
    assert "exported" in command_line.run(main, f"run={run}", "out=exports/mine", "num_inference_steps=7")
    loaded = load_pipeline("exports/mine")
    trained = torch.load(run / "checkpoints" / "step_00000002.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, trained[f"unet.{name}"]) for name, value in loaded.unet.state_dict().items())
    assert loaded.clip.resolution == 32
    assert loaded.config["num_inference_steps"] == 7
    assert [path.name for path in Path("exports").iterdir()] == ["mine"]


def test_an_export_generates_what_its_network_was_trained_to_generate(run: Path, command_line: CommandLine):
    config = OmegaConf.load(run / "config.yaml")
    OmegaConf.save(OmegaConf.merge(config, {"data": {"samples": {"mask": "face"}}}), run / "config.yaml")
    command_line.run(main, f"run={run}", "out=exports/mine")
    assert load_pipeline("exports/mine").config["mask"] == "face"


def test_a_former_export_is_replaced_and_nothing_else(run: Path, tmp_path: Path, command_line: CommandLine):
    for _ in range(2):
        command_line.run(main, f"run={run}", f"out={tmp_path / 'export'}")
    assert "not written here" in command_line.refusal(main, f"run={run}", f"out={run}")
    assert (run / "config.yaml").is_file()


def test_what_is_no_run_of_a_unet_is_refused_in_one_sentence(run: Path, command_line: CommandLine):
    assert "holds no training run" in command_line.refusal(main, "run=nowhere", "out=x")
    config = run / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("layers_per_block: 1", "layers_per_block: 2"))
    assert "its weights are not those of the U-Net" in command_line.refusal(main, f"run={run}", "out=x")
    config.write_text(text.replace("unet:", "syncnet:"))
    assert "trained no U-Net but UNetStage1Module" in command_line.refusal(main, f"run={run}", "out=x")
    config.write_text("steps: []")
    assert "holds no training run" in command_line.refusal(main, f"run={run}", "out=x")
    config.write_text(text)
    (run / "checkpoints" / "step_00000002.ckpt").unlink()
    assert "no checkpoint" in command_line.refusal(main, f"run={run}", "out=x")
    assert not Path("x").exists()
