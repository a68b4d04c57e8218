from typing import Any

import pytest
import torch

from lipsync_lightning.errors import ClipMismatch
from lipsync_lightning.models.autoencoder import LinearAutoencoder, drawn
from lipsync_lightning.models.weights_io import fingerprint
from lipsync_lightning.modules.unet_stage1_latents import LatentUNetStage1Module


class NoisyAutoencoder(LinearAutoencoder):
    """Draws its latents, as Stable Diffusion's does."""

    def posterior(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = LinearAutoencoder.encode(self, frames)
        return mean, torch.full_like(mean, 0.25)

    def encode(self, frames: torch.Tensor, generator: Any = None) -> torch.Tensor:
        return drawn(*self.posterior(frames), generator)


@pytest.fixture
def noisy(tiny_autoencoder: LinearAutoencoder) -> NoisyAutoencoder:
    network = NoisyAutoencoder(patch=4, latent_channels=4)
    network.load_state_dict(tiny_autoencoder.state_dict())
    return network


@pytest.fixture
def make_latent_stage1(make_stage1) -> Any:
    def make(**changes: Any) -> LatentUNetStage1Module:
        online = make_stage1(**changes)
        names = (
            "losses",
            "autoencoder",
            "unet",
            "scheduler",
            "optimizer",
            "schedule",
            "clip",
            "mixed_noise_alpha",
            "audio_dropout",
        )
        arguments = {name: getattr(online, name) for name in (*names, "num_inference_steps", "guidance_scale")}
        return LatentUNetStage1Module(**arguments, trainable=[""], gradient_checkpointing=False)

    return make


def as_stored(batch: Any, autoencoder: NoisyAutoencoder) -> dict[str, Any]:
    """Return what `LatentSamples` would give instead of the pictures of a batch."""

    def posteriors(frames: torch.Tensor) -> torch.Tensor:
        both = torch.stack(autoencoder.posterior(frames.flatten(0, 1)), dim=1).half().float()
        return both.unflatten(0, frames.shape[:2])

    masked = batch["frames"] * batch["keep_mask"][:, None]
    pixels = {"latents": batch["frames"], "masked_latents": masked, "reference_latents": batch["reference"]}
    others = {key: batch[key] for key in ("keep_mask", "audio", "id", "first_frame", "seed")}
    made_by = [fingerprint(autoencoder)] * len(batch["id"])
    return others | {"made_by": made_by} | {key: posteriors(frames) for key, frames in pixels.items()}


def test_the_loss_is_that_of_the_online_way(make_stage1, make_latent_stage1, clip_batch, noisy):
    torch.manual_seed(1)
    online = make_stage1(autoencoder=noisy)
    torch.nn.init.normal_(online.unet.conv_out.weight, std=0.1)
    stored = make_latent_stage1(autoencoder=noisy, unet=online.unet)
    expected, actual = online.training_step(clip_batch, 0), stored.training_step(as_stored(clip_batch, noisy), 0)
    torch.testing.assert_close(actual, expected, rtol=2e-3, atol=0)
    other_draws = as_stored(clip_batch, noisy) | {"seed": clip_batch["seed"] + 1}
    assert abs(float(stored.training_step(other_draws, 0) - expected)) > 5 * abs(float(actual - expected)), (
        "the control"
    )


def test_latents_of_another_autoencoder_are_refused(make_latent_stage1, clip_batch, noisy):
    stored = make_latent_stage1(autoencoder=noisy)
    foreign = as_stored(clip_batch, noisy) | {"made_by": ["another"] * len(clip_batch["id"])}
    with pytest.raises(ClipMismatch, match="the latents of clip_0 were made by another autoencoder"):
        stored.training_step(foreign, 0)
