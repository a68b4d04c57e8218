import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from lipsync_lightning.models.autoencoder import (
    LinearAutoencoder,
    PatchMoments,
    RefinedAutoencoder,
    StableDiffusionAutoencoder,
    encoder_fingerprint,
)


def smooth_frames(num_frames: int = 8, size: int = 32) -> Tensor:
    """Frames of slow colour waves, as smooth as skin."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    speed, phase = (torch.rand(2, num_frames, 3, 1, 1, generator=generator) * 6).unbind()
    return 0.9 * torch.sin(speed * rows + (6 - speed) * columns + phase)


def fitted(latent_channels: int, frames: Tensor) -> LinearAutoencoder:
    moments = PatchMoments(patch=4)
    for batch in frames.split(3):
        moments.update(batch)
    autoencoder = LinearAutoencoder(patch=4, latent_channels=latent_channels)
    autoencoder.fit_from_moments(moments.count, moments.total, moments.outer)
    return autoencoder


@pytest.fixture
def stable_diffusion() -> StableDiffusionAutoencoder:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        latent_channels=4,
    )
    return StableDiffusionAutoencoder(vae=vae).eval()


def test_keeping_every_component_gives_the_frames_back():
    frames = torch.rand(8, 3, 32, 32) * 2 - 1
    autoencoder = fitted(48, frames)
    torch.testing.assert_close(autoencoder(frames), frames, rtol=0, atol=1e-5)


def test_linear_latents_are_uncorrelated_and_their_errors_weigh_as_those_of_pixels():
    frames = smooth_frames() + 0.1 * torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    autoencoder = fitted(12, frames)
    encoded = autoencoder.encode(frames)
    latents = encoded.transpose(0, 1).flatten(1)
    covariance = torch.cov(latents, correction=0)
    torch.testing.assert_close(latents.mean(dim=1), torch.zeros(12), rtol=0, atol=1e-4)
    torch.testing.assert_close(covariance, covariance.diag().diag(), rtol=0, atol=1e-3)
    assert covariance.diag().mean().item() == pytest.approx(1, abs=1e-3)
    errors = torch.randn(12, *encoded.shape, generator=torch.Generator().manual_seed(2))
    of_pixels = [(autoencoder.decode(encoded + e) - autoencoder.decode(encoded)).square().sum() for e in errors]
    ratio = torch.stack(of_pixels) / errors.square().flatten(1).sum(dim=1)
    torch.testing.assert_close(ratio, ratio[:1].expand(12), rtol=1e-4, atol=0)


def refined(linear: LinearAutoencoder) -> RefinedAutoencoder:
    autoencoder = RefinedAutoencoder(patch=4, latent_channels=linear.latent_channels, width=8, num_blocks=1)
    autoencoder.load_state_dict(linear.state_dict(), strict=False)
    return autoencoder


def test_an_unrefined_autoencoder_is_the_linear_one_and_survives_saving(tmp_path):
    frames = smooth_frames()
    autoencoder = refined(linear := fitted(12, frames))
    torch.testing.assert_close(autoencoder(frames), linear(frames))
    torch.nn.init.normal_(autoencoder.conv_out.weight)
    assert not torch.allclose(autoencoder(frames), linear(frames), atol=0.1)
    autoencoder.save_pretrained(tmp_path)
    assert torch.equal(RefinedAutoencoder.from_pretrained(tmp_path)(frames), autoencoder(frames))


@pytest.mark.parametrize("kind", ["refined", "stable diffusion"])
def test_only_what_makes_latents_decides_whether_they_are_exchangeable(kind, stable_diffusion):
    autoencoder = refined(fitted(12, smooth_frames())) if kind == "refined" else stable_diffusion
    before = encoder_fingerprint(autoencoder)
    for part in autoencoder.decoding:
        for parameter in part.parameters():
            parameter.data += 1
    assert encoder_fingerprint(autoencoder) == before
    makes_latents = autoencoder.mean if kind == "refined" else autoencoder.vae.encoder.conv_in.weight.data
    makes_latents += 1
    assert encoder_fingerprint(autoencoder) != before


def test_a_fitted_linear_autoencoder_is_still_fitted_after_saving(tmp_path):
    frames = smooth_frames()
    autoencoder = fitted(12, frames)
    autoencoder.save_pretrained(tmp_path)
    loaded = LinearAutoencoder.from_pretrained(tmp_path)
    assert torch.equal(loaded.encode(frames), autoencoder.encode(frames))


def test_stable_diffusion_latents_are_scaled_samples_of_the_posterior(stable_diffusion: StableDiffusionAutoencoder):
    frames = smooth_frames(2)
    posterior = stable_diffusion.vae.encode(frames).latent_dist
    latents = stable_diffusion.encode(frames, [torch.Generator().manual_seed(3)])
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(latents, 0.18215 * (posterior.mean + posterior.std * noise))
    assert latents.shape == (2, stable_diffusion.latent_channels, *[32 // stable_diffusion.downscale] * 2)


def test_stable_diffusions_folder_is_that_of_a_plain_vae(tmp_path, stable_diffusion: StableDiffusionAutoencoder):
    stable_diffusion.save_pretrained(tmp_path)
    plain, ours = AutoencoderKL.from_pretrained(tmp_path), StableDiffusionAutoencoder.from_pretrained(tmp_path)
    latents = torch.randn(1, 4, 4, 4)
    assert torch.equal(plain.decode(latents / ours.scaling_factor).sample, ours.decode(latents))
    assert torch.equal(ours.decode(latents), stable_diffusion.decode(latents))


@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
def test_frames_in_pieces_have_the_same_latents_frames_and_gradients(stable_diffusion, again):
    frames, found = smooth_frames(7), []
    for stable_diffusion.frames_at_a_time in (7, 3):
        latents = stable_diffusion.encode(frames, [torch.Generator().manual_seed(1)]).detach().requires_grad_()
        decoded = stable_diffusion.decode(latents)
        decoded.square().sum().backward()
        found.append((latents.detach(), decoded.detach(), latents.grad))
        if again:
            stable_diffusion.enable_gradient_checkpointing()
    for whole, pieces in zip(*found, strict=True):
        torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-5 * float(whole.abs().max()))
