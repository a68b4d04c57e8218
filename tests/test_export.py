import hashlib
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from omegaconf import OmegaConf
from torch import Tensor

from command_line import CommandLine
from fake_hub import FakeHub
from lipsync_lightning import infer
from lipsync_lightning.commands.export import stretches, trained_timesteps
from lipsync_lightning.errors import BadConfig
from lipsync_lightning.export import main
from lipsync_lightning.media.audio import encode_flac
from lipsync_lightning.media.video import read_frames
from lipsync_lightning.models.audio_encoder import WhisperAudioEncoder
from lipsync_lightning.models.autoencoder import LinearAutoencoder, RefinedAutoencoder
from lipsync_lightning.models.hyperiqa import HyperIQA
from lipsync_lightning.models.judge_syncnet import JudgeSyncNet
from lipsync_lightning.models.latentsync import unet_to_reference
from lipsync_lightning.models.reference_names import renamed, unet_arguments_from_reference, whisper_names
from lipsync_lightning.models.released import unet_config
from lipsync_lightning.models.syncnet import StableSyncNet
from lipsync_lightning.models.unet import LipSyncUNet
from lipsync_lightning.models.videomae import VideoMAEFeatures
from lipsync_lightning.modules.weights import network_weights
from lipsync_lightning.pipeline.lipsync import LipSyncPipeline, load_pipeline
from oracle import fill_state_dict
from tiny_media import sound_of, write_video

NUM_FRAMES = 5
CLIP = ["clip.num_frames=4", "clip.resolution=32"]
DIMS = {"n_mels": 80, "n_audio_ctx": 50, "n_audio_state": 8, "n_audio_head": 2, "n_audio_layer": 1}
ENCODER = {"block_out_channels": [32, 32], "attn_blocks": [0, 1], "dropout": 0.0}
SYNCNET = {
    "audio_encoder": {"in_channels": 1, "downsample_factors": [4, [20, 3]], **ENCODER},
    "visual_encoder": {"in_channels": 12, "downsample_factors": [4, [4, 8]], **ENCODER},
}
VIDEOMAE = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "tubelet_size": 2}


def tiny_config(motion: Any) -> dict[str, Any]:
    """The `model` section of a small U-Net."""
    sizes = {"block_out_channels": [32, 32], "layers_per_block": 1, "attention_head_dim": 2}
    blocks = {
        "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"],
        "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"],
    }
    return {**unet_config(motion), **sizes, **blocks, "cross_attention_dim": 8, "norm_num_groups": 8}


def tiny_weights(motion: str) -> dict[str, Tensor]:
    return fill_state_dict(unet_to_reference(LipSyncUNet(**unet_arguments_from_reference(tiny_config(motion)))))


def whisper_file(weights: dict[str, Tensor]) -> dict[str, Any]:
    return {"dims": DIMS, "model_state_dict": renamed(weights, whisper_names)}


def tiny_videomae() -> VideoMAEFeatures:
    return VideoMAEFeatures(image_size=16, num_frames=4, mlp_width=32, **VIDEOMAE)


def content_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    monkeypatch.setenv("LIPSYNC_WEIGHTS", "weights")
    return CommandLine(tmp_path, monkeypatch, capfd)


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A folder with small networks in the files and formats of the released ones."""
    folder = tmp_path / "weights"
    (folder / "latentsync-1.6" / "whisper").mkdir(parents=True)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, **blocks).save_pretrained(folder / "sd-vae-ft-mse")
    torch.save(
        whisper_file(WhisperAudioEncoder(**DIMS).state_dict()), folder / "latentsync-1.6" / "whisper" / "tiny.pt"
    )
    torch.save({"global_step": 9, "state_dict": tiny_weights("all")}, folder / "latentsync-1.6" / "latentsync_unet.pt")
    OmegaConf.save({"model": tiny_config("all")}, tmp_path / "stage2.yaml")
    return folder


def exporting(*more: str, source: str = "weights/latentsync-1.6/latentsync_unet.pt") -> list[str]:
    return [f"source={source}", "kind=latentsync", "out=exports/x", "model_config=stage2.yaml", *CLIP, *more]


def test_an_export_holds_the_runs_newest_weights_its_clip_and_the_mask_it_was_trained_with(
    run: Path, command_line: CommandLine
):
    config = OmegaConf.load(run / "config.yaml")
    OmegaConf.save(OmegaConf.merge(config, {"data": {"samples": {"mask": "face"}}}), run / "config.yaml")
    assert "exported" in command_line.run(main, f"run={run}", "out=exports/mine", "num_inference_steps=7")
    loaded = load_pipeline("exports/mine")
    trained = torch.load(run / "checkpoints" / "step_00000002.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, trained[f"unet.{name}"]) for name, value in loaded.unet.state_dict().items())
    assert loaded.clip.resolution == 32
    assert (loaded.config["num_inference_steps"], loaded.config["mask"]) == (7, "face")
    assert [path.name for path in Path("exports").iterdir()] == ["mine"]


def changed(run: Path, **module: Any) -> None:
    config = OmegaConf.load(run / "config.yaml")
    OmegaConf.save(OmegaConf.merge(config, {"module": module}), run / "config.yaml")


def test_an_export_samples_where_its_run_or_the_one_before_was_trained_and_nowhere_else(run: Path, command_line):
    whole = load_pipeline(exported(run, command_line, "whole"))
    assert whole.config["trained_timesteps"] == [[0, 999]]
    changed(run, timesteps="sampler", num_inference_steps=2)
    loaded = load_pipeline(exported(run, command_line, "grid"))
    assert loaded.config["trained_timesteps"] == [[0, 0], [500, 500]]
    assert (loaded.config["num_inference_steps"], loaded.config["guidance_scale"]) == (2, 1.5)  # the run's own
    refused = command_line.refusal(main, f"run={run}", "out=x", "num_inference_steps=4")
    assert "visits timestep 750, but the U-Net was trained at 0, 500 only" in refused
    with pytest.raises(BadConfig, match="visits timestep 750"):
        loaded.inpainter(0, num_inference_steps=4)
    former = run.parent / "former"
    copytree(run, former)
    changed(former, timesteps=[700, 800])
    changed(run, timesteps=[0, 10])
    config = OmegaConf.load(run / "config.yaml")
    for start, known in ((former, [[0, 10], [700, 800]]), (Path("exports/grid"), [[0, 10], [500, 500]])):
        config.init_from = str(start)
        assert stretches(trained_timesteps(config)) == known


def exported(run: Path, command_line: CommandLine, name: str) -> str:
    command_line.run(main, f"run={run}", f"out=exports/{name}")
    return f"exports/{name}"


def test_a_trained_decoder_takes_the_place_of_its_like_and_of_no_other(run: Path, command_line, tiny_autoencoder):
    def refined(name: str, linear: LinearAutoencoder) -> RefinedAutoencoder:
        autoencoder = RefinedAutoencoder(patch=4, latent_channels=4, width=8, num_blocks=1)
        autoencoder.load_state_dict(linear.state_dict(), strict=False)
        torch.nn.init.normal_(autoencoder.conv_out.weight)
        autoencoder.save_pretrained(Path(name) / "autoencoder")
        return autoencoder

    plain = refined("plain", tiny_autoencoder)
    coder = "lipsync_lightning.models.autoencoder.RefinedAutoencoder.from_pretrained"
    changed(run, autoencoder={"_target_": coder, "pretrained_model_name_or_path": "plain/autoencoder"})
    better = refined("better", tiny_autoencoder)
    assert not torch.equal(better.conv_out.weight, plain.conv_out.weight)
    command_line.run(main, f"run={run}", "out=mine", "decoder=better")
    assert torch.equal(load_pipeline("mine").autoencoder.conv_out.weight, better.conv_out.weight)
    tiny_autoencoder.mean += 1
    refined("other", tiny_autoencoder)
    assert "decodes other latents" in command_line.refusal(main, f"run={run}", "out=x", "decoder=other")
    assert "no RefinedAutoencoder at nowhere" in command_line.refusal(main, f"run={run}", "out=x", "decoder=nowhere")
    assert not Path("x").exists()


def test_what_is_no_run_of_a_unet_is_refused_in_one_sentence(run: Path, command_line: CommandLine):
    assert "holds no training run" in command_line.refusal(main, "run=nowhere", "out=x")
    config = run / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("layers_per_block: 1", "layers_per_block: 2"))
    assert "do not fit LipSyncUNet" in command_line.refusal(main, f"run={run}", "out=x")
    config.write_text(text.replace("unet:", "syncnet:"))
    assert "trained no U-Net but lipsync_lightning.modules.unet_stage1.UNetStage1Module" in command_line.refusal(
        main, f"run={run}", "out=x"
    )
    config.write_text("steps: []")
    assert "holds no training run" in command_line.refusal(main, f"run={run}", "out=x")
    config.write_text(text)
    (run / "checkpoints" / "step_00000002.ckpt").unlink()
    assert "no checkpoint" in command_line.refusal(main, f"run={run}", "out=x")
    assert not Path("x").exists()


def test_a_released_unet_becomes_an_export_that_lip_syncs_a_video(released, command_line, tmp_path):
    printed = command_line.run(main, *exporting("num_inference_steps=7"))
    assert "exports/x: LipSyncUNet" in printed
    assert "for faces of 32 pixels" in printed
    pipeline = LipSyncPipeline.from_pretrained("exports/x", low_cpu_mem_usage=False)
    assert (pipeline.scheduler.config["beta_end"], pipeline.scheduler.config["prediction_type"]) == (0.012, "epsilon")
    assert (pipeline.clip.resolution, pipeline.config["num_inference_steps"]) == (32, 7)
    write_video(tmp_path / "talk.mp4", NUM_FRAMES, sound_of(NUM_FRAMES))
    (tmp_path / "speech.flac").write_bytes(encode_flac(sound_of(NUM_FRAMES, range(2, 4)), 16000))
    arguments = ["model=exports/x", "video=talk.mp4", "audio=speech.flac", "out=result.mp4", "faces=sidecar"]
    said = command_line.run(infer.main, *arguments, "num_inference_steps=2", "device=cpu", "dtype=float32")
    assert f"{NUM_FRAMES} of {NUM_FRAMES} frames lip-synced" in said
    assert len(list(read_frames(tmp_path / "result.mp4"))) == NUM_FRAMES


@pytest.mark.parametrize("motion", ["none", "all", "up"])
def test_a_released_unet_comes_back_bit_for_bit_and_a_training_can_start_from_its_export(
    motion, released, command_line, tmp_path
):
    weights = tiny_weights(motion)
    torch.save(weights if motion == "up" else {"state_dict": weights}, tmp_path / "mine.pt")
    OmegaConf.save(tiny_config(motion), tmp_path / "stage2.yaml")
    command_line.run(main, *exporting(source="mine.pt"))
    unet = LipSyncUNet(**unet_arguments_from_reference(tiny_config(motion)))
    unet.load_state_dict(network_weights("exports/x", "unet"))
    back_again = ["source=exports/x", "kind=latentsync", "to=latentsync", "out=back.pt"]
    command_line.run(main, *back_again)
    back = torch.load("back.pt", weights_only=True)
    assert set(back) == {"global_step", "state_dict"}
    for found in (unet_to_reference(unet), back["state_dict"]):
        assert set(found) == set(weights)
        assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())
    assert "back.pt exists" in command_line.refusal(main, *back_again)


def test_a_syncnet_and_the_unet_of_a_run_go_back_as_well(make_unet, command_line, tmp_path):
    weights = fill_state_dict(StableSyncNet(**SYNCNET).state_dict())
    torch.save({"state_dict": weights}, tmp_path / "stable_syncnet.pt")
    OmegaConf.save({"model": SYNCNET}, tmp_path / "syncnet.yaml")
    command_line.run(main, "source=stable_syncnet.pt", "kind=syncnet", "out=syncnet", "model_config=syncnet.yaml")
    command_line.run(main, "source=syncnet", "kind=syncnet", "to=latentsync", "out=back/stable_syncnet.pt")
    back = torch.load("back/stable_syncnet.pt", weights_only=True)["state_dict"]
    assert all(torch.equal(back[name], tensor) for name, tensor in weights.items())
    unet = make_unet("none")
    unet.save_pretrained(tmp_path / "runs" / "stage1" / "unet")
    command_line.run(main, "source=runs/stage1", "kind=latentsync", "to=latentsync", "out=unet.pt")
    assert torch.equal(torch.load("unet.pt", weights_only=True)["state_dict"]["conv_in.weight"], unet.conv_in.weight)


@pytest.mark.parametrize(
    ("kind", "build", "wrap"),
    [
        ("whisper", lambda: WhisperAudioEncoder(**DIMS), whisper_file),
        ("judge_syncnet", JudgeSyncNet, dict),
        ("hyperiqa", HyperIQA, dict),
        ("videomae", tiny_videomae, lambda weights: {"module": {**weights, "head.bias": torch.zeros(3)}}),
    ],
)
def test_other_networks_become_folders_of_their_own(kind, build, wrap, command_line, tmp_path):
    weights = build().state_dict()
    torch.save(wrap(weights), tmp_path / "released.pt")
    OmegaConf.save({"img_size": 16, "all_frames": 4, "mlp_ratio": 2, **VIDEOMAE}, tmp_path / "vit.yaml")
    described = ["model_config=vit.yaml"] if kind == "videomae" else []
    command_line.run(main, "source=released.pt", f"kind={kind}", "out=made", *described)
    found = type(build()).from_pretrained("made").state_dict()
    assert set(found) == set(weights)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in found.items())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: b"<!DOCTYPE html><title>Sign in</title>", "begins with b'<!DOCTYPE"),
        (lambda: Path("weights/latentsync-1.6/latentsync_unet.pt").read_bytes()[:-5000], "is not a whole checkpoint"),
    ],
)
def test_a_bad_file_is_refused_and_a_former_export_stays(content, reason, released, command_line, tmp_path):
    command_line.run(main, *exporting())
    before = content_of(tmp_path / "exports")
    (tmp_path / "bad.pt").write_bytes(content())
    assert reason in command_line.refusal(main, *exporting(source="bad.pt"))
    assert content_of(tmp_path / "exports") == before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["kind=latentsync", "out=x"], "give one of run=, fetch= and source="),
        (["source=a.pt", "kind=latentsync"], "give out=<folder>, or to=latentsync"),
        (["source=a.pt", "kind=unet", "out=x"], "kind=unet is none of"),
        (["source=a.pt", "kind=latentsync", "out=x", "to=onnx"], "or to=latentsync out=<file.pt>"),
        (["run=a", "to=latentsync", "out=x.pt"], "to=latentsync needs source="),
        (["source=nowhere.pt", "kind=syncnet", "out=x"], "no weights at nowhere.pt"),
        (["source=stage2.yaml", "kind=syncnet", "out=weights"], "not written here"),
        (["source=stage2.yaml", "kind=syncnet", "out=a.pt"], "a.pt is a file"),
        (["source=weights", "kind=latentsync", "to=latentsync", "out=folder"], "out=<file.pt>"),
        (["source=a.pt", "kind=latentsync", "out=x", "model_config=no.yaml"], "model_config=no.yaml is no YAML file"),
        (["source=a.pt", "kind=whisper", "out=x", "model_config=stage2.yaml"], "leave it out for kind=whisper"),
        (["source=a.pt", "kind=latentsync", "out=x"], "misshapen"),
        (["source=x", "kind=whisper", "to=latentsync", "out=y.pt"], "kind=latentsync or syncnet"),
        (["source=weights/sd-vae-ft-mse", "kind=latentsync", "to=latentsync", "out=y.pt"], "does not hold a"),
        (["fetch=latentsync-2"], "fetch one of ['latentsync-1.5', 'latentsync-1.6']"),
        (exporting("guidance_scale=-3"), "must be a"),
        (exporting("audio_encoder.path=weights/none.pt"), "python -m lipsync_lightning.export fetch=latentsync-1.6"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence_and_writes_nothing(
    arguments, reason, released, command_line, tmp_path
):
    (tmp_path / "a.pt").write_bytes((released / "latentsync-1.6" / "latentsync_unet.pt").read_bytes())
    before = content_of(tmp_path)
    assert reason in command_line.refusal(main, *arguments)
    assert content_of(tmp_path) == before


def test_one_command_fetches_a_release_checks_it_and_makes_its_export(released, command_line, monkeypatch):
    files = {str(path.relative_to(released)): data for path, data in content_of(released).items()}
    served = {path.partition("/")[2]: data for path, data in files.items()}
    hub = FakeHub("owner/name", revision="0" * 40, files=served)

    def pins(changed: str = "") -> str:
        listed = []
        for path, data in files.items():
            sha256 = "f" * 64 if path.endswith(changed or "?") else hashlib.sha256(data).hexdigest()
            folder, _, name = path.partition("/")
            place = f"path:{name},sha256:'{sha256}',folder:{folder}"
            listed.append(f"{{{place},repo:owner/name,revision:'{'0' * 40}'}}")
        return f"releases={{latentsync-1.6:{{resolution:32,inference:[{','.join(listed)}]}}}}"

    arguments = ["fetch=latentsync-1.6", "out=exports/x", "model_config=stage2.yaml", "clip.num_frames=4"]
    monkeypatch.setenv("LIPSYNC_WEIGHTS", "fetched")
    with hub.serving(monkeypatch):
        refused = command_line.refusal(main, *arguments, pins(changed="latentsync_unet.pt"))
        assert f"expected sha256 {'f' * 64}, found" in refused
        assert not Path("exports/x").exists()
        printed = command_line.run(main, *arguments, pins())
    assert "were there, all as pinned" in printed
    assert load_pipeline("exports/x").clip.resolution == 32
