import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from omegaconf import OmegaConf
from torch import Tensor

from command_line import CommandLine
from fake_hub import FakeHub
from lipsync_lightning import infer
from lipsync_lightning.convert import main
from lipsync_lightning.media.audio import encode_flac
from lipsync_lightning.media.video import read_frames
from lipsync_lightning.models.audio_encoder import WhisperAudioEncoder
from lipsync_lightning.models.hyperiqa import HyperIQA
from lipsync_lightning.models.judge_syncnet import JudgeSyncNet
from lipsync_lightning.models.latentsync import unet_to_reference
from lipsync_lightning.models.reference_unet import unet_arguments_from_reference
from lipsync_lightning.models.reference_whisper import named_as_openai
from lipsync_lightning.models.released_configs import unet_config
from lipsync_lightning.models.syncnet import StableSyncNet
from lipsync_lightning.models.unet import LipSyncUNet
from lipsync_lightning.models.videomae import VideoMAEFeatures
from lipsync_lightning.modules.weights import network_weights
from lipsync_lightning.pipeline.lipsync import LipSyncPipeline
from oracle import fill_state_dict
from tiny_media import sound_of, write_video

DIMS = {"n_mels": 80, "n_audio_ctx": 50, "n_audio_state": 8, "n_audio_head": 2, "n_audio_layer": 1}
NUM_FRAMES = 5
CLIP = ["clip.num_frames=4", "clip.resolution=32"]
TINY_SYNCNET = {
    "audio_encoder": {
        "in_channels": 1,
        "block_out_channels": [32, 32],
        "downsample_factors": [4, [20, 3]],
        "dropout": 0.0,
    },
    "visual_encoder": {
        "in_channels": 12,
        "block_out_channels": [32, 32],
        "downsample_factors": [4, [4, 8]],
        "dropout": 0.0,
    },
}
TINY_VIDEOMAE = {
    "img_size": 16,
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
    "mlp_ratio": 2,
    "all_frames": 4,
    "tubelet_size": 2,
}


def tiny_config(motion: str) -> dict[str, Any]:
    """The `model` section of a small U-Net."""
    sizes = {
        "block_out_channels": [32, 32],
        "layers_per_block": 1,
        "attention_head_dim": 2,
        "cross_attention_dim": 8,
        "norm_num_groups": 8,
    }
    blocks = {
        "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"],
        "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"],
    }
    return {**unet_config(motion), **sizes, **blocks}  # pyright: ignore[reportArgumentType]


def tiny_weights(motion: str) -> dict[str, Tensor]:
    return fill_state_dict(unet_to_reference(LipSyncUNet(**unet_arguments_from_reference(tiny_config(motion)))))


def tiny_whisper() -> dict[str, Any]:
    return {"dims": DIMS, "model_state_dict": named_as_openai(WhisperAudioEncoder(**DIMS).state_dict())}


@pytest.fixture
def command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    monkeypatch.setenv("LIPSYNC_WEIGHTS", "weights")
    return CommandLine(tmp_path, monkeypatch, capfd)


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A folder with small networks in the files and formats of the released ones."""
    folder = tmp_path / "weights"
    (folder / "latentsync-1.6" / "whisper").mkdir(parents=True)
    AutoencoderKL(block_out_channels=(8, 8), down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
                  norm_num_groups=4, latent_channels=4, sample_size=32).save_pretrained(folder / "sd-vae-ft-mse")  # fmt: skip
    torch.save(tiny_whisper(), folder / "latentsync-1.6" / "whisper" / "tiny.pt")
    torch.save({"global_step": 9, "state_dict": tiny_weights("all")}, folder / "latentsync-1.6" / "latentsync_unet.pt")
    OmegaConf.save({"model": tiny_config("all")}, tmp_path / "stage2.yaml")
    return folder


def converted(
    released: Path, *more: str, source: str = "weights/latentsync-1.6/latentsync_unet.pt", out: str = "exports/x"
) -> list[str]:
    return [f"source={source}", "kind=latentsync", f"out={out}", "model_config=stage2.yaml", *CLIP, *more]


def test_a_released_unet_becomes_an_export_that_lip_syncs_a_video(released, command_line, tmp_path):
    printed = command_line.run(main, *converted(released))
    assert "exports/x: LipSyncUNet" in printed
    write_video(tmp_path / "talk.mp4", NUM_FRAMES, sound_of(NUM_FRAMES))
    (tmp_path / "speech.flac").write_bytes(encode_flac(sound_of(NUM_FRAMES, range(2, 4)), 16000))
    said = command_line.run(infer.main, "model=exports/x", "video=talk.mp4", "audio=speech.flac", "out=result.mp4", "faces=sidecar",
                            "num_inference_steps=2", "device=cpu", "dtype=float32")  # fmt: skip
    assert f"{NUM_FRAMES} of {NUM_FRAMES} frames lip-synced" in said
    assert len(list(read_frames(tmp_path / "result.mp4"))) == NUM_FRAMES


def test_a_training_run_can_start_from_the_export(released, command_line):
    command_line.run(main, *converted(released))
    weights = network_weights("exports/x", "unet")
    unet = LipSyncUNet(**unet_arguments_from_reference(tiny_config("all")))
    unet.load_state_dict(weights)
    expected = tiny_weights("all")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in unet_to_reference(unet).items())


def test_an_export_holds_the_published_scheduler_and_the_clip_it_was_made_for(released, command_line):
    command_line.run(main, *converted(released, "num_inference_steps=7"))
    pipeline = LipSyncPipeline.from_pretrained("exports/x", low_cpu_mem_usage=False)
    assert (pipeline.scheduler.config["beta_end"], pipeline.scheduler.config["prediction_type"]) == (0.012, "epsilon")
    assert pipeline.clip.resolution == 32
    assert pipeline.config["num_inference_steps"] == 7
    assert not pipeline.unet.training


@pytest.mark.parametrize("motion", ["none", "all", "up"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_checkpoint_comes_back_in_the_original_format_bit_for_bit(motion, wrapped, released, command_line, tmp_path):
    weights = tiny_weights(motion)
    torch.save({"state_dict": weights, "global_step": 3} if wrapped else weights, tmp_path / "mine.pt")
    OmegaConf.save(tiny_config(motion), tmp_path / "stage2.yaml")
    command_line.run(main, *converted(released, source="mine.pt"))
    command_line.run(main, "source=exports/x", "kind=latentsync", "to=latentsync", "out=back.pt")
    back = torch.load("back.pt", weights_only=True)
    assert set(back) == {"global_step", "state_dict"}
    assert set(back["state_dict"]) == set(weights)
    assert all(
        torch.equal(tensor, weights[name]) and tensor.dtype == weights[name].dtype
        for name, tensor in back["state_dict"].items()
    )


def test_a_syncnet_comes_back_in_the_original_format_bit_for_bit(command_line, tmp_path):
    sections = {name: {"attn_blocks": [0, 1], **section} for name, section in TINY_SYNCNET.items()}
    weights = fill_state_dict(StableSyncNet(**sections).state_dict())
    torch.save({"state_dict": weights}, tmp_path / "stable_syncnet.pt")
    OmegaConf.save({"model": sections}, tmp_path / "syncnet.yaml")
    command_line.run(main, "source=stable_syncnet.pt", "kind=syncnet", "out=syncnet", "model_config=syncnet.yaml")
    command_line.run(main, "source=syncnet", "kind=syncnet", "to=latentsync", "out=back/stable_syncnet.pt")
    back = torch.load("back/stable_syncnet.pt", weights_only=True)["state_dict"]
    assert all(torch.equal(back[name], tensor) for name, tensor in weights.items())


def test_a_run_goes_back_as_well_as_an_export(command_line, tmp_path):
    unet = LipSyncUNet(**unet_arguments_from_reference(tiny_config("up")))
    unet.save_pretrained(tmp_path / "runs" / "stage2" / "unet")
    command_line.run(main, "source=runs/stage2", "kind=latentsync", "to=latentsync", "out=back.pt")
    back = torch.load("back.pt", weights_only=True)["state_dict"]
    assert torch.equal(back["conv_in.weight"], unet.conv_in.weight)


@pytest.mark.parametrize(
    ("kind", "network", "content"),
    [
        ("whisper", WhisperAudioEncoder, tiny_whisper),
        ("judge_syncnet", JudgeSyncNet, lambda: JudgeSyncNet().state_dict()),
        ("hyperiqa", HyperIQA, lambda: HyperIQA().state_dict()),
    ],
)  # fmt: skip
def test_other_networks_become_folders_of_their_own(kind, network, content, command_line, tmp_path):
    torch.save(content(), tmp_path / "released.pt")
    command_line.run(main, "source=released.pt", f"kind={kind}", "out=made")
    loaded = network.from_pretrained("made").state_dict()
    given = torch.load(tmp_path / "released.pt", weights_only=True)
    given = given.get("model_state_dict", given)
    named = named_as_openai(loaded) if kind == "whisper" else loaded
    assert set(named) == set(given)
    assert all(torch.equal(tensor, given[name]) for name, tensor in named.items())
    assert sorted(path.name for path in Path("made").iterdir()) == [
        ".lipsync_lightning.json",
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]


def test_a_videomae_becomes_a_folder_of_its_own_without_its_classifier(command_line, tmp_path):
    network = VideoMAEFeatures(
        image_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2, mlp_width=32, num_frames=4, tubelet_size=2
    )
    torch.save(
        {"module": {**network.state_dict(), "head.weight": torch.zeros(3, 16), "head.bias": torch.zeros(3)}},
        tmp_path / "vit.pth",
    )
    OmegaConf.save(TINY_VIDEOMAE, tmp_path / "vit.yaml")
    command_line.run(main, "source=vit.pth", "kind=videomae", "out=made", "model_config=vit.yaml")
    loaded = VideoMAEFeatures.from_pretrained("made").state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in network.state_dict().items())


class RunsCode:
    def __reduce__(self):
        return Path.touch, (Path("touched"),)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: b"notes on training", "a text file"),
        (lambda: b"<!DOCTYPE html><title>Sign in</title>", "a web page"),
        (lambda: pickle.dumps({"state_dict": RunsCode()}, protocol=2), "could run code"),
        (
            lambda: Path("weights/latentsync-1.6/latentsync_unet.pt").read_bytes()[:-5000],
            "writing or downloading had been interrupted",
        ),
    ],
)
def test_a_bad_file_is_refused_and_a_former_export_stays(content, reason, released, command_line, tmp_path):
    command_line.run(main, *converted(released))
    before = {path: path.read_bytes() for path in Path("exports/x").rglob("*") if path.is_file()}
    (tmp_path / "bad.pt").write_bytes(content())
    assert reason in command_line.refusal(main, *converted(released, source="bad.pt"))
    assert {path: path.read_bytes() for path in Path("exports/x").rglob("*") if path.is_file()} == before
    assert [path.name for path in Path("exports").iterdir()] == ["x"]
    assert not Path("touched").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["kind=latentsync", "out=x"], "give source= (kinds are hyperiqa, judge_syncnet, latentsync,"),
        ([], "give source=, kind=, out="),
        (["source=a.pt", "kind=unet", "out=x"], "kind=unet is none of"),
        (["source=a.pt", "kind=latentsync", "out=x", "to=onnx"], "to=onnx is neither"),
        (["source=nowhere.pt", "kind=syncnet", "out=x"], "no weights at nowhere.pt"),
        (
            ["source=.", "kind=syncnet", "out=x"],
            "source=. is a folder; give the released file, such as stable_syncnet.pt",
        ),
        (["source=stage2.yaml", "kind=syncnet", "out=weights"], "what was not written here"),
        (["source=stage2.yaml", "kind=syncnet", "out=a.pt"], "a.pt is a file"),
        (["source=weights", "kind=latentsync", "to=latentsync", "out=folder"], "give out=<folder>/latentsync_unet.pt"),
        (["source=a.pt", "kind=latentsync", "out=x", "model_config=no.yaml"], "model_config=no.yaml is not a file"),
        (["source=x", "kind=whisper", "to=latentsync", "out=y.pt"], "kind=whisper does not go back"),
        (["source=nowhere", "kind=latentsync", "to=latentsync", "out=y.pt"], "source=nowhere is no folder"),
        (["source=weights/sd-vae-ft-mse", "kind=latentsync", "to=latentsync", "out=y.pt"], "does not hold a"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence_and_writes_nothing(
    arguments, reason, released, command_line, tmp_path
):
    (tmp_path / "a.pt").write_bytes((released / "latentsync-1.6" / "latentsync_unet.pt").read_bytes())
    before = set(tmp_path.rglob("*"))
    assert reason in command_line.refusal(main, *arguments)
    assert set(tmp_path.rglob("*")) == before


def test_a_network_of_another_size_asks_for_its_configuration(released, command_line):
    arguments = [argument for argument in converted(released) if "model_config" not in argument]
    refused = command_line.refusal(main, *arguments)
    assert "misshapen" in refused
    assert "the configuration that belongs to these weights" in refused


def test_missing_parts_of_the_pipeline_are_named_with_the_command_that_gets_them(released, command_line):
    (released / "latentsync-1.6" / "whisper" / "tiny.pt").unlink()
    assert "python -m lipsync_lightning.convert fetch=latentsync-1.6" in command_line.refusal(
        main, *converted(released)
    )


@pytest.mark.parametrize("numbers", [["num_inference_steps=abc"], ["num_inference_steps=0"], ["guidance_scale=-3"]])
def test_numbers_that_mean_nothing_are_not_written_into_an_export(numbers, released, command_line):
    assert "must be a" in command_line.refusal(main, *converted(released, *numbers))
    assert not Path("exports/x").exists()


def test_a_full_disk_is_told_before_anything_is_written(released, command_line, monkeypatch):
    monkeypatch.setattr("lipsync_lightning.files.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    assert "GB free; make room" in command_line.refusal(main, *converted(released))
    assert not Path("exports/x").exists()


def test_the_size_of_faces_is_told(released, command_line):
    assert "for faces of 32x32 pixels" in command_line.run(main, *converted(released))


def test_a_written_original_is_not_overwritten(released, command_line):
    command_line.run(main, *converted(released))
    back = ["source=exports/x", "kind=latentsync", "to=latentsync", "out=back.pt"]
    command_line.run(main, *back)
    assert "back.pt exists" in command_line.refusal(main, *back)


def test_one_command_fetches_a_release_and_makes_its_export(released, tmp_path):
    names = {
        "latentsync-1.6": ["latentsync_unet.pt", "whisper/tiny.pt"],
        "sd-vae-ft-mse": ["config.json", "diffusion_pytorch_model.safetensors"],
    }
    files = {name: (released / folder / name).read_bytes() for folder, inside in names.items() for name in inside}
    hub = FakeHub(repo="owner/name", revision="0" * 40, files=files)

    def source(folder: str) -> str:
        pins = [
            f"{{_target_:lipsync_lightning.models.hub_pins.HubFile,path:{name},size:{len(files[name])},sha256:{hashlib.sha256(files[name]).hexdigest()}}}"
            for name in names[folder]
        ]
        return f"files:[{','.join(pins)}],repo:owner/name,revision:{json.dumps('0' * 40)}"

    with hub.serving():
        command = [
            sys.executable,
            "-m",
            "lipsync_lightning.convert",
            "fetch=latentsync-1.6",
            "out=exports/x",
            "model_config=stage2.yaml",
            *CLIP,
        ]
        command += [
            f"fetch.inference.release={{{source('latentsync-1.6')}}}",
            f"fetch.inference.autoencoder={{{source('sd-vae-ft-mse')}}}",
        ]
        environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "LIPSYNC_WEIGHTS": "fetched",
                       "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "fetched/latentsync-1.6: 4 files downloaded, 0 were there" in done.stdout
    assert LipSyncPipeline.from_pretrained(tmp_path / "exports" / "x", low_cpu_mem_usage=False).clip.num_frames == 4


def test_a_model_of_the_hub_is_a_source_by_its_name(tmp_path):
    weights = JudgeSyncNet().state_dict()
    torch.save(weights, tmp_path / "syncnet_v2.model")
    content = (tmp_path / "syncnet_v2.model").read_bytes()
    hub = FakeHub(
        repo="owner/name", revision="a" * 40, files={"auxiliary/syncnet_v2.model": content}, branches={"main": "a" * 40}
    )
    with hub.serving():
        command = [
            sys.executable,
            "-m",
            "lipsync_lightning.convert",
            "source=owner/name",
            "kind=judge_syncnet",
            "out=made",
        ]
        environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1",
                       "NO_PROXY": "127.0.0.1", "LIPSYNC_WEIGHTS": "fetched", "OMP_NUM_THREADS": "1"}  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"at commit {'a' * 40}" in done.stdout
    assert JudgeSyncNet.from_pretrained(tmp_path / "made").num_parameters() > 0
