import numpy as np
import pytest
import torch
from einops import rearrange

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.losses.mouth import MouthLoss, ReconstructionLoss
from lipsync_lightning.losses.terms import WeightedLoss, WeightedLosses
from lipsync_lightning.models.autoencoder import LinearAutoencoder, RefinedAutoencoder, encoder_fingerprint
from lipsync_lightning.modules.autoencoder import AutoencoderModule, LinearAutoencoderModule


def reconstructed_by_numpy(frames: np.ndarray, patch: int, num_components: int) -> np.ndarray:
    patches = rearrange(frames, "n c (h p) (w q) -> (n h w) (c p q)", p=patch, q=patch)
    mean = patches.mean(axis=0)
    _, _, directions = np.linalg.svd(patches - mean, full_matrices=False)
    kept = directions[:num_components]
    back = (patches - mean) @ kept.T @ kept + mean
    side = frames.shape[-1] // patch
    return rearrange(back, "(n h w) (c p q) -> n c (h p) (w q)", h=side, w=side, p=patch, q=patch)


def test_a_fit_over_two_batches_reconstructs_as_numpys_principal_components_do(make_clip_batch, tiny_clip, train):
    batches = [make_clip_batch(2) for _ in range(2)]
    module = LinearAutoencoderModule(autoencoder=LinearAutoencoder(patch=4, latent_channels=12), clip=tiny_clip)
    trainer = train(module, batches, steps=-1, heldout=batches[:1])
    frames = torch.cat([batch["frames"] for batch in batches]).flatten(0, 1)
    expected = reconstructed_by_numpy(frames.double().numpy(), 4, 12)
    rebuilt = module.autoencoder(frames)
    torch.testing.assert_close(rebuilt.double(), torch.from_numpy(expected), rtol=0, atol=1e-4)
    heldout = batches[0]["frames"].flatten(0, 1)
    error = (module.autoencoder(heldout) - heldout).square().mean()
    assert trainer.callback_metrics["val/psnr"].item() == pytest.approx(10 * torch.log10(4 / error).item(), abs=1e-4)


@pytest.fixture
def decoder_module(tiny_autoencoder, training_arguments):
    def make(**changes) -> AutoencoderModule:
        autoencoder = RefinedAutoencoder(patch=4, latent_channels=4, width=8, num_blocks=1)
        autoencoder.load_state_dict(tiny_autoencoder.state_dict(), strict=False)
        terms = {"reconstruction": ReconstructionLoss(), "mouth": MouthLoss()}
        losses = WeightedLosses(terms={name: WeightedLoss(weight=1.0, loss=loss) for name, loss in terms.items()})
        given = {
            "autoencoder": autoencoder,
            "losses": losses,
            "most_latent_noise": 0.3,
            "gradient_checkpointing": False,
        }
        return AutoencoderModule(**{**given, **training_arguments, **changes})

    return make


def test_a_trained_decoder_is_closer_and_its_latents_are_those_of_before(decoder_module, make_clip_batch, train):
    batches = [make_clip_batch(2)] * 30
    module = decoder_module()
    linear = module.reconstruct(batches[0])
    before, latents = encoder_fingerprint(module.autoencoder), module.autoencoder.encode(linear.frames.flatten(0, 1))
    trainer = train(module, batches, steps=30, heldout=batches[:1])
    assert encoder_fingerprint(module.autoencoder) == before
    assert torch.equal(module.autoencoder.encode(linear.frames.flatten(0, 1)), latents)
    losses = {name: loss(linear).item() for name, loss in module.losses.terms.items()}
    assert trainer.callback_metrics["val/loss"] < 0.9 * sum(losses.values())


def test_the_noise_on_latents_is_the_clips_own_and_as_strong_as_asked(decoder_module, make_clip_batch):
    batch = make_clip_batch(2)
    calm, noisy = (decoder_module(most_latent_noise=most) for most in (0.0, 0.3))
    clean = calm.autoencoder(batch["frames"].flatten(0, 1))
    torch.testing.assert_close(calm.reconstruct(batch).frames_pred.flatten(0, 1), clean)
    first, again = (noisy.reconstruct(batch).frames_pred for _ in range(2))
    assert torch.equal(first, again)
    off = (first.flatten(0, 1) - clean).square().mean().sqrt() / noisy.autoencoder.scale
    assert 0 < off < 0.3 * (4 / 48) ** 0.5  # of 48 values 4 components are noised


def test_an_autoencoder_without_a_decoder_that_learns_is_refused(decoder_module, tiny_autoencoder):
    with pytest.raises(BadConfig, match="LinearAutoencoder does not learn"):
        decoder_module(autoencoder=tiny_autoencoder)
    with pytest.raises(BadConfig, match=r"module\.autoencoder\.path"):
        decoder_module().load_weights("runs/other")
