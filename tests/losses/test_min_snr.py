import pytest
import torch

from lipsync_lightning.diffusion import training_target
from lipsync_lightning.losses.min_snr import MinSNRLoss


@pytest.mark.parametrize("schedule", ["ddim_epsilon", "ddim_velocity"])
def test_an_error_of_the_clean_latents_counts_the_same_for_noise_and_velocity(schedule, request):
    scheduler = request.getfixturevalue(schedule)
    timesteps = torch.tensor([600])
    clean, noise = torch.randn(2, 1, 4, 3, 8, 8)
    error = 0.1 * torch.randn_like(clean)
    noisy = scheduler.add_noise(clean, noise, timesteps)
    alpha_bar = scheduler.alphas_cumprod[600]
    wrong_noise = (noisy - alpha_bar.sqrt() * (clean + error)) / (1 - alpha_bar).sqrt()
    wrong_velocity = alpha_bar.sqrt() * wrong_noise - (1 - alpha_bar).sqrt() * (clean + error)
    prediction = wrong_noise if schedule == "ddim_epsilon" else wrong_velocity
    target = training_target(scheduler, clean, noise, timesteps)
    loss = MinSNRLoss(scheduler=scheduler, gamma=5.0)(prediction, target, timesteps)
    snr = float(alpha_bar / (1 - alpha_bar))
    assert loss.item() == pytest.approx(min(snr, 5.0) * error.square().mean().item(), rel=1e-3)
