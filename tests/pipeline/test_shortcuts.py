from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors.torch import save_file
from torch import Tensor

from lipsync_lightning import diffusion, errors
from lipsync_lightning.media.people import SidecarPeople
from lipsync_lightning.models.autoencoder import StableDiffusionAutoencoder
from lipsync_lightning.pipeline import painting
from lipsync_lightning.pipeline.shortcuts import at_work, solver_of
from tiny_media import sound_of, write_video

CPU = torch.device("cpu")


@pytest.fixture
def made(pipeline, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch):
    """A function of a call's options: the faces it makes, (B, T, 3, H, W), before they are rounded."""
    video = write_video(tmp_path / "raw" / "v.mp4", 22, sound_of(22, loud=range(22)), without_face=range(6, 14))
    batches: list[Tensor] = []
    real = painting.to_uint8
    monkeypatch.setattr(painting, "to_uint8", lambda faces: real(batches.append(faces) or faces))

    def make(**options: Any) -> Tensor:
        batches.clear()
        pipeline(video=video, audio=video, out=out, faces=SidecarPeople(), **options)
        return torch.cat(batches).float()

    return make


@pytest.mark.parametrize("reference", ["own_frames", "previous_window"])
def test_several_windows_at_a_time_make_what_one_does(pipeline, made, reference: str):
    """With an autoencoder that draws, and windows of which some, and one all, frames show no face."""
    vae: Any = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
    vae = AutoencoderKL(**vae, block_out_channels=[4, 4, 4], norm_num_groups=2)
    pipeline.register_modules(autoencoder=StableDiffusionAutoencoder(vae=vae).eval())
    pipeline.register_to_config(reference=reference)
    one = made()
    assert one.shape == (5, 4, 3, 32, 32)
    for num_windows in (2, 4, 9):
        torch.testing.assert_close(made(windows_at_a_time=num_windows), one, rtol=0, atol=1e-5)


def test_deep_features_are_computed_at_every_other_step_and_only_while_asked(pipeline, made):
    counts, unet = {"deep": 0, "fine": 0}, pipeline.unet
    exact = made(num_inference_steps=5)
    for name, block in (("deep", unet.down_blocks[1].resnets[0]), ("fine", unet.down_blocks[0].resnets[0])):
        block.register_forward_hook(lambda *_, name=name: counts.update({name: counts[name] + 1}))
    kept = made(num_inference_steps=5, deep_features_every=2)
    assert counts == {"deep": 5 * 3, "fine": 5 * 5}
    assert 0 < (kept - exact).abs().mean() < (made(num_inference_steps=1) - exact).abs().mean()
    assert torch.equal(made(num_inference_steps=5), exact)


def test_the_solver_of_second_order_comes_closer_in_as_many_steps(ddim_velocity):
    """To where the exact flow from noise to data of mean 0.5 and deviation 0.2 ends."""
    noise = torch.randn(1, 1, 1, 16, 16)

    def velocity(latents: Tensor, timestep: Tensor) -> Tensor:
        signal = ddim_velocity.alphas_cumprod[timestep]
        gain = 0.04 * signal.sqrt() / (0.04 * signal + 1 - signal)
        clean = 0.5 + gain * (latents - 0.5 * signal.sqrt())
        return (signal.sqrt() * latents - clean) / (1 - signal).sqrt()

    def error(name: str) -> float:
        found = diffusion.sample(velocity, noise, solver_of(ddim_velocity, name), 10)
        return float((found - (0.5 + 0.2 * noise)).abs().mean())

    assert error("dpm") < error("ddim") / 3


def test_a_tiny_decoder_decodes_and_one_for_other_latents_is_refused(pipeline, made, tmp_path: Path):
    shape: Any = {"decoder_block_out_channels": [4] * 3, "num_decoder_blocks": [1] * 3}
    exact = made()
    for channels in (4, 16):
        AutoencoderTiny(**shape, latent_channels=channels).save_pretrained(tmp_path / f"{channels}")
    assert (made() - exact).abs().max() == 0
    pipeline.place(CPU, torch.float32, decoder=str(tmp_path / "4"))
    assert (made() - exact).abs().max() > 0.1
    with pytest.raises(errors.WrongWeights, match="16 channels, one for 4 pixels a side, not latents of 4 "):
        pipeline.place(CPU, torch.float32, decoder=str(tmp_path / "16"))
    with pytest.raises(errors.MissingWeights, match="no TinyDecoder at nowhere"):
        pipeline.place(CPU, torch.float32, decoder="nowhere")
    weights = tmp_path / "4" / "diffusion_pytorch_model.safetensors"
    save_file({"another.weight": torch.zeros(1)}, weights)
    with pytest.raises(errors.WrongWeights, match="does not hold a TinyDecoder"):
        pipeline.place(CPU, torch.float32, decoder=str(tmp_path / "4"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_a_cpu_makes_nearly_the_same(pipeline, made, dtype: torch.dtype):
    exact = made()
    assert 0 < (pipeline.place(CPU, dtype) and made() - exact).abs().mean() < 0.02


def test_networks_that_wait_on_the_cpu_take_turns_and_nothing_changes(pipeline, made, monkeypatch):
    exact, seen = made(), []
    pipeline.place(CPU, torch.float32, offload=True)
    for name in ("unet", "autoencoder"):
        monkeypatch.setattr(getattr(pipeline, name), "to", lambda place, name=name: seen.append((name, place)))
    assert torch.equal(made(), exact)
    visit = [("autoencoder", CPU)] * 2
    assert seen == (visit + [("unet", CPU)] * 2 + visit) * 5
    with at_work(pipeline.unet, torch.device("meta"), 1):
        assert seen[-1] == ("unet", torch.device("meta"))
    assert seen[-1] == ("unet", CPU)


@pytest.mark.parametrize("name", ["compile", "offload"])
def test_what_is_neither_true_nor_false_is_refused(pipeline, name):
    with pytest.raises(errors.BadConfig, match=f"{name}='maybe' must be true or false"):
        pipeline.place(CPU, torch.float32, **{name: "maybe"})
