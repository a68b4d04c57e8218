import numpy as np
import pytest
import torch
from einops import rearrange

from lipsync_lightning.models.autoencoder import LinearAutoencoder
from lipsync_lightning.modules.autoencoder import LinearAutoencoderModule


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
