from typing import Any

import pytest
import torch
from torch import Tensor

from lipsync_lightning.errors import ClipMismatch
from lipsync_lightning.losses.terms import Loss, StepOutput, WeightedLoss, WeightedLosses
from lipsync_lightning.models.autoencoder import LinearAutoencoder, drawn
from lipsync_lightning.models.weights_io import fingerprint

STEPS = 40


@pytest.fixture
def noise_loss(denoised):
    """A function of a module and a batch: the loss averaged over many draws of noise and timestep."""

    def loss(module, batch) -> float:
        with torch.no_grad():
            steps = [denoised(module, each) for each in new_draws(batch, 16)]
        return sum(torch.nn.functional.mse_loss(step.prediction, step.target).item() for step in steps) / len(steps)

    return loss


def new_draws(batch: Any, count: int) -> list[Any]:
    """The same clip with other seeds, as later epochs bring it."""
    return [{**batch, "seed": batch["seed"] + 1 + number} for number in range(count)]


class ShuffledTarget(Loss):
    """Compares with a target whose pixels changed places."""

    def reads(self, step: StepOutput) -> tuple[Tensor, ...]:
        rows, columns = (torch.randperm(step.target.shape[axis]) for axis in (3, 4))
        return step.prediction, step.target[:, :, :, rows][..., columns]

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square().mean()


def test_an_untrained_unet_predicts_zero_so_the_loss_is_the_variance_of_the_noise(
    make_stage1, make_clip_batch, noise_loss
):
    assert noise_loss(make_stage1(), make_clip_batch(4)) == pytest.approx(1.0, abs=0.05)


def test_every_parameter_learns_and_the_loss_and_its_term_are_logged(make_stage1, clip_batch, train):
    module = make_stage1()
    before = {name: parameter.detach().clone() for name, parameter in module.unet.named_parameters()}
    trainer = train(module, [clip_batch] * 3, steps=3, heldout=[clip_batch])  # past layers that start at zero
    assert [name for name, parameter in module.unet.named_parameters() if torch.equal(parameter, before[name])] == []
    assert set(trainer.callback_metrics) == {"train/loss", "train/loss_noise", "val/loss", "val/loss_noise"}
    assert trainer.callback_metrics["train/loss"] == trainer.callback_metrics["train/loss_noise"]


def test_one_clip_can_be_learned_by_heart_and_a_target_that_is_shuffled_cannot(
    make_stage1, clip_batch, train, noise_loss
):
    module = make_stage1()
    control = make_stage1(losses=WeightedLosses(terms={"noise": WeightedLoss(weight=1.0, loss=ShuffledTarget())}))
    for each in (module, control):
        train(each, new_draws(clip_batch, STEPS), steps=STEPS)
    assert noise_loss(module, clip_batch) < 0.7
    assert noise_loss(control, clip_batch) > 0.9


class NoisyAutoencoder(LinearAutoencoder):
    """Draws its latents, as Stable Diffusion's does."""

    def posterior(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        mean = LinearAutoencoder.encode(self, frames)
        return mean, torch.full_like(mean, 0.25)

    def encode(self, frames: Tensor, generator: Any = None) -> Tensor:
        return drawn(*self.posterior(frames), generator)


@pytest.fixture
def noisy(tiny_autoencoder: LinearAutoencoder) -> NoisyAutoencoder:
    network = NoisyAutoencoder(patch=4, latent_channels=4)
    network.load_state_dict(tiny_autoencoder.state_dict())
    return network


def as_stored(batch: Any, autoencoder: NoisyAutoencoder) -> dict[str, Any]:
    """Return what `LatentSamples` would give instead of the pictures of a batch."""

    def posteriors(frames: Tensor) -> Tensor:
        both = torch.stack(autoencoder.posterior(frames.flatten(0, 1)), dim=1).half().float()
        return both.unflatten(0, frames.shape[:2])

    masked = batch["frames"] * batch["keep_mask"][:, None]
    pixels = {"latents": batch["frames"], "masked_latents": masked, "reference_latents": batch["reference"]}
    others = {key: batch[key] for key in ("keep_mask", "audio", "id", "first_frame", "seed")}
    made_by = [fingerprint(autoencoder)] * len(batch["id"])
    return others | {"made_by": made_by} | {key: posteriors(frames) for key, frames in pixels.items()}


def test_stored_latents_give_the_loss_that_pixels_give_from_the_same_draws(make_stage1, clip_batch, noisy):
    module = make_stage1(autoencoder=noisy)
    torch.nn.init.normal_(module.unet.conv_out.weight, std=0.1)
    expected, actual = (module.training_step(each, 0) for each in (clip_batch, as_stored(clip_batch, noisy)))
    torch.testing.assert_close(actual, expected, rtol=2e-3, atol=0)
    other_draws = as_stored(clip_batch, noisy) | {"seed": clip_batch["seed"] + 1}
    assert abs(float(module.training_step(other_draws, 0) - expected)) > 5 * abs(float(actual - expected))


def test_latents_of_another_autoencoder_are_refused(make_stage1, clip_batch, noisy):
    foreign = as_stored(clip_batch, noisy) | {"made_by": ["another"] * len(clip_batch["id"])}
    with pytest.raises(ClipMismatch, match="the latents of clip_0 were made by another autoencoder"):
        make_stage1(autoencoder=noisy).training_step(foreign, 0)
