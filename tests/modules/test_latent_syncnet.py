"""A SyncNet that judges latents: what it is shown, what it learns, what it leaves alone."""

from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from einops import rearrange
from torch import Tensor, nn

from lipsync_lightning.clip import ClipBatch, WindowBatch
from lipsync_lightning.losses.contrastive import ContrastiveObjective
from lipsync_lightning.models.autoencoder import StableDiffusionAutoencoder
from lipsync_lightning.models.syncnet import StableSyncNet
from lipsync_lightning.modules.latent_syncnet import LatentSyncNetModule


class RecordingSyncNet(nn.Module):
    """Remembers what it was shown."""

    def forward(self, frames: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        self.shown = frames
        return frames.flatten(1), mel.flatten(1)


@pytest.fixture
def make_module(tiny_clip, tiny_autoencoder, training_arguments):
    common: dict[str, Any] = {"dropout": 0.0, "norm_num_groups": 4}
    sound = {
        "in_channels": 1,
        "block_out_channels": [8, 16, 32],
        "downsample_factors": [4, 4, [5, 1]],
        "attn_blocks": [0] * 3,
    }
    latents = {
        "in_channels": 4 * tiny_clip.num_frames,
        "block_out_channels": [16, 32],
        "downsample_factors": [2, 4],
        "attn_blocks": [0] * 2,
    }

    def make(**changes: Any) -> LatentSyncNetModule:
        arguments = {
            "autoencoder": tiny_autoencoder,
            "syncnet": StableSyncNet(audio_encoder={**sound, **common}, visual_encoder={**latents, **common}),
            "objective": ContrastiveObjective(initial_temperature=0.07),
            **training_arguments,
        }
        return LatentSyncNetModule(**{**arguments, **changes})

    return make


@pytest.fixture
def tiny_vae() -> StableDiffusionAutoencoder:
    return StableDiffusionAutoencoder(vae=AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4))


def talking(batch: ClipBatch) -> WindowBatch:
    """The first of eight stripes, and of eight bands of the mel, is bright in the first clip, the second in the second, and so on."""
    batch["frames"] *= 0.2
    batch["mel"] *= 0.2
    for row in range(len(batch["mel"])):
        batch["frames"][row, ..., 4 * row : 4 * (row + 1)] += 0.8
        batch["mel"][row, :, 10 * row : 10 * (row + 1)] += 2
    return batch


def test_the_network_is_shown_the_latents_of_whole_faces_frame_after_frame_in_the_channels(
    make_module, clip_batch, tiny_autoencoder
):
    syncnet = RecordingSyncNet()
    make_module(syncnet=syncnet)(clip_batch)
    expected = tiny_autoencoder.encode(rearrange(clip_batch["frames"], "b t c h w -> (b t) c h w"))
    torch.testing.assert_close(syncnet.shown, rearrange(expected, "(b t) c h w -> b (t c) h w", b=2))
    assert syncnet.shown.shape == (2, 4 * 4, 8, 8)


def test_latents_that_are_drawn_belong_to_the_clip_and_not_to_the_batch(make_module, make_clip_batch, tiny_vae):
    syncnet, batch = RecordingSyncNet(), make_clip_batch(3)
    module = make_module(syncnet=syncnet, autoencoder=tiny_vae)
    module(batch)
    together = syncnet.shown
    torch.rand(5)
    module(ClipBatch(**{key: value[2:] for key, value in batch.items()}))
    torch.testing.assert_close(syncnet.shown, together[2:])
    module(ClipBatch(**{**batch, "seed": batch["seed"] + 1}))
    assert not torch.allclose(syncnet.shown, together)


def test_it_learns_four_clips_by_heart_but_not_sound_that_changes_places_every_step(
    make_module, make_clip_batch, train
):
    batch = talking(make_clip_batch(4))

    def loss_after(training: list[WindowBatch]) -> float:
        torch.manual_seed(1)
        return train(make_module(), training, steps=len(training), heldout=[batch]).callback_metrics["val/loss"].item()

    shuffled = [WindowBatch(**{**batch, "mel": batch["mel"][torch.randperm(4)]}) for _ in range(25)]
    assert loss_after([batch] * 25) < 0.3  # chance is log(4) = 1.39
    assert loss_after(shuffled) > 1.0


def test_it_is_validated_by_the_sound_around_too(make_module, make_clip_batch, train):
    batch = talking(make_clip_batch(4))
    heldout = {
        **batch,
        "mel_around": torch.cat([torch.randn_like(batch["mel"])[:, None]] * 4 + [batch["mel"][:, None]] * 3, dim=1),
    }
    metrics = train(make_module(), [batch] * 25, steps=25, heldout=[heldout]).callback_metrics
    assert metrics["val/offset_frames"] == -1  # the first of the three that are its own
    assert metrics["val/offset_accuracy"] == 1


def test_only_syncnet_and_objective_learn(make_module, tiny_vae):
    module = make_module(autoencoder=tiny_vae.train())
    optimized = [
        parameter for group in module.configure_optimizers()["optimizer"].param_groups for parameter in group["params"]
    ]
    assert len(optimized) == len([*module.syncnet.parameters(), *module.objective.parameters()])
    assert not any(part.training for part in module.autoencoder.modules())


def test_the_autoencoder_stays_as_it_was_and_out_of_the_checkpoint(make_module, make_clip_batch, train, tmp_path):
    module = make_module()
    before = {name: tensor.clone() for name, tensor in module.autoencoder.state_dict().items()}
    trainer = train(module, [make_clip_batch(4)], steps=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    checkpoint = torch.load(tmp_path / "one.ckpt", weights_only=True)
    assert all(torch.equal(module.autoencoder.state_dict()[name], tensor) for name, tensor in before.items())
    assert not any(name.startswith("autoencoder.") for name in checkpoint["state_dict"])
    assert checkpoint["clip"] == module.clip.as_dict()
    assert train(make_module(), [make_clip_batch(4)], steps=2, checkpoint=tmp_path / "one.ckpt").global_step == 2
