from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from command_line import CommandLine
from lipsync_lightning.export import main
from lipsync_lightning.models.autoencoder import LinearAutoencoder
from lipsync_lightning.models.unet import LipSyncUNet
from lipsync_lightning.pipeline.lipsync import load_pipeline

UNET = {
    "_target_": "lipsync_lightning.models.unet.LipSyncUNet",
    "in_channels": 13,
    "out_channels": 4,
    "block_out_channels": [16, 16],
    "attention": [False, True],
    "layers_per_block": 1,
    "num_attention_heads": 2,
    "cross_attention_dim": 8,
    "norm_num_groups": 4,
    "motion": "none",
    "motion_num_attention_heads": 2,
}


@pytest.fixture
def command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(tmp_path, monkeypatch, capfd)


@pytest.fixture
def run(tmp_path: Path, tiny_autoencoder: LinearAutoencoder, make_unet) -> Path:
    """What a training leaves: its configuration and a checkpoint."""
    folder = tmp_path / "run"
    tiny_autoencoder.save_pretrained(tmp_path / "autoencoder")
    unet: LipSyncUNet = make_unet("none")
    torch.nn.init.normal_(unet.conv_out.weight)
    (folder / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": {f"unet.{k}": v for k, v in unet.state_dict().items()}}, folder / "checkpoints" / "step_00000002.ckpt")
    clip = {"num_frames": 4, "fps": 25, "resolution": 32, "sample_rate_hz": 16000, "mel_hz": 80, "num_mels": 80}
    encoder = {"num_tokens": 3, "columns_per_token": 1, "sample_rate_hz": 16000, "mel_hz": 80, "num_mels": 8}
    configuration = {
        "clip": {"_target_": "lipsync_lightning.clip.ClipSpec", **clip},
        "audio_encoder": {"_target_": "lipsync_lightning.models.audio_encoder.LogMelAudioEncoder", **encoder},
        "module": {
            "_target_": "lipsync_lightning.modules.unet_stage1.UNetStage1Module",
            "unet": UNET,
            "autoencoder": {
                "_target_": "lipsync_lightning.models.autoencoder.LinearAutoencoder.from_pretrained",
                "pretrained_model_name_or_path": str(tmp_path / "autoencoder"),
            },
            "scheduler": {"_target_": "diffusers.DDIMScheduler"},
        },
    }
    OmegaConf.save(OmegaConf.create(configuration), folder / "config.yaml")
    return folder


def test_an_export_holds_the_runs_newest_weights_and_its_clip(run: Path, command_line: CommandLine):
    assert "exported" in command_line.run(main, f"run={run}", "out=exports/mine", "num_inference_steps=7")
    loaded = load_pipeline("exports/mine")
    trained = torch.load(run / "checkpoints" / "step_00000002.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, trained[f"unet.{name}"]) for name, value in loaded.unet.state_dict().items())
    assert loaded.clip.resolution == 32
    assert loaded.config["num_inference_steps"] == 7
    assert [path.name for path in Path("exports").iterdir()] == ["mine"]


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
    assert "configures something else" in command_line.refusal(main, f"run={run}", "out=x")
    config.write_text(text)
    (run / "checkpoints" / "step_00000002.ckpt").unlink()
    assert "no checkpoint" in command_line.refusal(main, f"run={run}", "out=x")
    assert not Path("x").exists()
