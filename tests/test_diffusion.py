from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from safetensors.torch import load_file
from torch import nn

from lipsync_lightning import diffusion
from lipsync_lightning.errors import BadConfig
from lipsync_lightning.pipeline.shortcuts import solver_of

TIMESTEPS = torch.tensor([3, 700])


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    """What the reference computes; (B, T, C, H, W)."""
    return load_file(Path(__file__).parent / "fixtures" / "diffusion.safetensors")


@pytest.fixture(params=["ddim_epsilon", "ddim_velocity"])
def scheduler(request: pytest.FixtureRequest) -> DDIMScheduler:
    return request.getfixturevalue(request.param)


def test_mixed_noise_is_that_of_the_reference(reference):
    shared, independent = reference["shared"].expand(-1, 4, -1, -1, -1), reference["independent"]
    torch.testing.assert_close(
        diffusion.mix_noise(shared, independent, 1.0), reference["mixed_alpha_1"], rtol=0, atol=1e-6
    )
    mixed = diffusion.mix_noise(shared[:1], independent[:1], 2.0)
    torch.testing.assert_close(mixed, reference["mixed_alpha_2_first_clip"], rtol=0, atol=1e-6)


def test_noising_and_the_one_step_estimate_are_those_of_the_reference(reference, ddim_epsilon):
    noisy = ddim_epsilon.add_noise(reference["clean"], reference["mixed_alpha_1"], reference["timesteps"])
    torch.testing.assert_close(noisy, reference["noisy"], rtol=0, atol=1e-6)
    clean = diffusion.predict_clean(
        ddim_epsilon, reference["predicted_noise"], reference["noisy"], reference["timesteps"]
    )
    # One rounding of ᾱ, which depends on the CPU, grows by 1/sqrt(ᾱ).
    torch.testing.assert_close(clean, reference["one_step_clean"], rtol=0, atol=5e-6)


def test_sampling_visits_the_reference_timesteps(reference, ddim_epsilon):
    visited = []

    def predict(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        visited.append(int(timestep))
        return torch.zeros_like(latents)

    diffusion.sample(predict, torch.randn(1, 1, 1, 2, 2), ddim_epsilon, 20)
    assert visited == reference["inference_timesteps_20"].tolist()


def test_the_one_step_estimate_of_a_perfect_prediction_is_the_clean_latents(scheduler):
    clean, noise = torch.randn(2, 2, 3, 4, 5, 5)
    target = diffusion.training_target(scheduler, clean, noise, TIMESTEPS)
    noisy = scheduler.add_noise(clean, noise, TIMESTEPS)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(diffusion.predict_clean(scheduler, target, noisy, TIMESTEPS), clean, rtol=0, atol=1e-4)


def test_another_prediction_type_is_refused(ddim_epsilon):
    other = DDIMScheduler.from_config(ddim_epsilon.config, prediction_type="sample")
    with pytest.raises(BadConfig, match="epsilon or v_prediction, not 'sample'"):
        diffusion.training_target(other, *torch.randn(2, 2, 1, 1, 3, 3), TIMESTEPS)


@pytest.mark.parametrize(
    ("choice", "trained"),
    [
        ("uniform", list(range(1000))),
        ("sampler", [332, 666, 999]),
        ([10, 12], [10, 11, 12]),
        ({"logit_normal": [0.0, 1.0]}, list(range(1000))),
    ],
)
def test_timesteps_are_trained_where_the_choice_says(choice, trained, ddim_velocity):
    density = diffusion.timestep_density(choice, ddim_velocity, 3)
    assert np.flatnonzero(density).tolist() == trained
    assert density.sum() == pytest.approx(1)


def test_a_logit_normal_density_is_that_of_a_normal_variable_through_the_logistic_function(ddim_velocity):
    density = diffusion.timestep_density({"logit_normal": [0.5, 0.8]}, ddim_velocity, 3)
    drawn = 1 / (1 + np.exp(-np.random.default_rng(1).normal(0.5, 0.8, 100_000)))
    counted = np.histogram(drawn, 10, (0, 1))[0] / 100_000
    np.testing.assert_allclose(density.reshape(10, 100).sum(axis=1), counted, atol=5e-3)


@pytest.mark.parametrize("choice", [[0, 1000], [5, 4], [-1, 3], [7], "all", {"logit_normal": [0.0, 0.0]}, None])
def test_timesteps_outside_the_schedule_are_refused(choice, ddim_velocity):
    with pytest.raises(BadConfig, match="uniform, sampler"):
        diffusion.timestep_density(choice, ddim_velocity, 3)


def test_sampling_where_nothing_was_trained_is_refused(ddim_velocity):
    diffusion.require_trained(ddim_velocity, 1, [[333, 333], [999, 999]])
    diffusion.require_trained(ddim_velocity, 7, None)
    with pytest.raises(BadConfig, match="visits timestep 499, but the U-Net was trained at 0 to 333, 999 only"):
        diffusion.require_trained(ddim_velocity, 2, [[0, 333], [999, 999]])


def test_the_unet_reads_noisy_mask_masked_reference_in_this_order():
    noisy, masked, reference = (torch.full((2, 3, 4, 5, 5), value) for value in (1.0, 2.0, 3.0))
    stacked = diffusion.unet_input(noisy, diffusion.Conditioning(torch.zeros(2, 1, 5, 5), masked, reference))
    assert stacked.shape == (2, 13, 3, 5, 5)
    assert stacked[0, :, 1, 2, 2].tolist() == [1.0] * 4 + [0.0] + [2.0] * 4 + [3.0] * 4


@pytest.mark.parametrize("num_steps", [1, 8, 20])
def test_sampling_with_a_perfect_predictor_finds_the_clean_latents(ddim_velocity, num_steps):
    clean, start = torch.randn(2, 1, 2, 3, 4, 4)

    def velocity(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return ddim_velocity.get_velocity(clean, start, timestep[None])

    found = diffusion.sample(velocity, start, ddim_velocity, num_steps)
    at_first_timestep = ddim_velocity.add_noise(clean, start, torch.tensor([0]))  # where the released schedule ends
    torch.testing.assert_close(found, at_first_timestep, rtol=0, atol=1e-4)
    assert (found - clean).square().mean().sqrt() < 0.04


@pytest.mark.parametrize("name", ["ddim", "dpm"])
def test_no_step_of_sampling_asks_a_tensor_for_its_value(ddim_velocity, name, monkeypatch):
    for asking in ("item", "__int__", "__index__", "__float__", "__bool__"):
        monkeypatch.setattr(torch.Tensor, asking, lambda _: pytest.fail("a GPU would be waited for"))
    diffusion.sample(lambda latents, _: latents, torch.ones(1, 1, 1, 2, 2), solver_of(ddim_velocity, name), 4)


def test_noise_cannot_be_predicted_where_nothing_else_is_left(ddim_epsilon):
    scheduler = DDIMScheduler.from_config(ddim_epsilon.config, rescale_betas_zero_snr=True)
    clean = torch.randn(1, 2, 4, 8, 8)
    with pytest.raises(BadConfig, match="0/0; use v_prediction"):
        diffusion.training_target(scheduler, clean, torch.randn_like(clean), torch.tensor([5]))


class SaysWhatItHears(nn.Module):
    """A U-Net whose velocity is the mean of the tokens it hears; counts its clips."""

    dtype = torch.float32

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        self.sample = sample
        return audio.mean(dim=(1, 2, 3))[:, None, None, None, None].expand(-1, 4, *sample.shape[2:])


@pytest.fixture
def inpainted(ddim_velocity, tiny_autoencoder, clip_batch):
    """A function of a guidance scale: inpainted frames, and how many clips the U-Net was asked about at a step."""

    def inpaint(guidance_scale: float, **changes: torch.Tensor) -> tuple[torch.Tensor, int]:
        unet = SaysWhatItHears()
        given = {key: clip_batch[key] for key in ("frames", "reference", "audio", "keep_mask")} | changes
        noise = torch.randn(2, 4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        options = {"noise": noise, "num_inference_steps": 2, "guidance_scale": guidance_scale}
        return diffusion.inpaint(unet, tiny_autoencoder, ddim_velocity, **given, **options), len(unet.sample)

    return inpaint


def test_guidance_goes_past_the_prediction_with_sound_and_costs_a_second_pass(inpainted, clip_batch):
    """From silence, which says 0, by the scale: as if the sound had been as many times louder."""
    guided, num_asked = inpainted(1.5)
    louder, num_asked_plainly = inpainted(1.0, audio=1.5 * clip_batch["audio"])
    assert (num_asked, num_asked_plainly) == (4, 2)
    torch.testing.assert_close(guided, louder, rtol=0, atol=1e-5)
    assert (guided - inpainted(1.0)[0]).abs().max() > 1e-3


def test_inpainting_keeps_what_the_mask_keeps_and_sees_nothing_of_the_rest(inpainted, clip_batch):
    hole = (clip_batch["keep_mask"] == 0)[:, None]
    made, _ = inpainted(1.0)
    of_other_mouths, _ = inpainted(1.0, frames=torch.where(hole, -clip_batch["frames"], clip_batch["frames"]))
    assert torch.equal(of_other_mouths, made)
    kept = (clip_batch["keep_mask"] == 1)[:, None].expand_as(made)
    assert torch.equal(made[kept], clip_batch["frames"][kept])


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    "solver",
    [EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, UniPCMultistepScheduler, DDPMScheduler],
)
def test_any_schedulers_solver_comes_to_what_a_perfect_prediction_says(solver: Any, prediction_type: str):
    ddim: Any = DDIMScheduler(clip_sample=False, prediction_type=prediction_type, timestep_spacing="trailing")
    clean, noise, told = torch.full((1, 2, 4, 3, 3), 0.7), torch.randn(1, 2, 4, 3, 3), []

    def predict_at(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        alpha_bar = ddim.alphas_cumprod[timestep.long()]
        noise = (latents - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt()
        is_noise = prediction_type == "epsilon"
        return noise if is_noise else alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean

    made = diffusion.sample(
        predict_at, noise, solver.from_config(ddim.config), 8, lambda *step: told.append(step[0]) or step[2]
    )
    torch.testing.assert_close(made, clean, atol=1e-4, rtol=0)
    assert told == list(range(8))
