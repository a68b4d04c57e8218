"""What both stages share: noise, what the U-Net is given, what learns, what a checkpoint holds."""

import pytest
import torch
from torch import Tensor, nn

from lipsync_lightning import diffusion
from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import ClipMismatch, MissingWeights, WrongWeights
from lipsync_lightning.modules.draws import ClipDraws


class RecordingUNet(nn.Module):
    """Remembers what it was given and predicts zeros."""

    def __init__(self, latent_channels: int) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, sample: Tensor, timestep: Tensor, audio: Tensor) -> Tensor:
        self.sample, self.timestep, self.audio = sample, timestep, audio
        return self.gain * sample[:, : self.latent_channels]


@pytest.fixture
def recording(tiny_autoencoder) -> RecordingUNet:
    return RecordingUNet(tiny_autoencoder.latent_channels)


def test_the_unet_is_given_noisy_mask_masked_and_reference_latents(
    make_stage1, recording, clip_batch, tiny_autoencoder
):
    make_stage1(unet=recording).training_step(clip_batch, 0)
    masked_frame = clip_batch["frames"][:, 1] * clip_batch["keep_mask"]
    assert recording.sample.shape == (2, 13, 4, 8, 8)
    assert torch.equal(recording.sample[:, 4, 1], clip_batch["keep_mask"][:, 0, ::4, ::4])
    torch.testing.assert_close(recording.sample[:, 5:9, 1], tiny_autoencoder.encode(masked_frame))
    torch.testing.assert_close(recording.sample[:, 9:13, 1], tiny_autoencoder.encode(clip_batch["reference"][:, 1]))


def test_a_clip_has_one_timestep_and_another_clip_another(make_stage1, recording, make_clip_batch):
    make_stage1(unet=recording).training_step(make_clip_batch(8), 0)
    assert recording.timestep.shape == (8,)
    assert len(recording.timestep.unique()) > 4
    assert 0 <= int(recording.timestep.min()) <= int(recording.timestep.max()) < 1000


def test_dropout_of_one_silences_every_clip_and_of_zero_none(make_stage1, recording, clip_batch):
    make_stage1(unet=recording, audio_dropout=1.0).training_step(clip_batch, 0)
    assert recording.audio.abs().max() == 0
    make_stage1(unet=recording, audio_dropout=0.0).training_step(clip_batch, 0)
    assert torch.equal(recording.audio, clip_batch["audio"])


def test_dropout_silences_whole_clips(make_stage1, recording, make_clip_batch):
    batch = make_clip_batch(64)
    make_stage1(unet=recording, audio_dropout=0.5).training_step(batch, 0)
    silent = recording.audio.abs().amax(dim=(1, 2, 3)) == 0
    assert 16 < int(silent.sum()) < 48
    assert torch.equal(recording.audio[~silent], batch["audio"][~silent])


def test_validation_hears_everything_and_draws_the_same_noise_every_time(make_stage1, recording, clip_batch):
    module = make_stage1(unet=recording, audio_dropout=1.0)
    module.validation_step(clip_batch, 3)
    first = recording.sample.clone()
    torch.rand(5)
    module.validation_step(clip_batch, 3)
    assert torch.equal(recording.audio, clip_batch["audio"])
    assert torch.equal(recording.sample, first)


@pytest.mark.parametrize("schedule", ["ddim_epsilon", "ddim_velocity"])
def test_a_perfect_prediction_costs_nothing_and_decodes_to_what_was_encoded(
    request, make_stage1, clip_batch, monkeypatch, schedule
):
    module = make_stage1(scheduler=request.getfixturevalue(schedule))
    truth: dict[str, Tensor] = {}

    def remembered(scheduler, clean, noise, timesteps):
        truth["target"], truth["clean"] = original(scheduler, clean, noise, timesteps), clean
        return truth["target"]

    original = diffusion.training_target
    monkeypatch.setattr(diffusion, "training_target", remembered)
    module.denoise(clip_batch, torch.ones_like(clip_batch["seed"]).bool(), ClipDraws(clip_batch["seed"], "cpu"))
    monkeypatch.setattr(module.unet, "forward", lambda *_: truth["target"].transpose(1, 2))
    step = module.denoise(clip_batch, torch.ones_like(clip_batch["seed"]).bool(), ClipDraws(clip_batch["seed"], "cpu"))
    torch.testing.assert_close(step.prediction, step.target)
    torch.testing.assert_close(step.clean_pred, truth["clean"], rtol=0, atol=1e-3)


def test_frozen_weights_are_neither_in_the_optimizer_nor_in_the_checkpoint(make_stage2, clip_batch, train, tmp_path):
    module = make_stage2()
    trainer = train(module, [clip_batch], steps=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    checkpoint = torch.load(tmp_path / "one.ckpt", weights_only=True)
    optimized = {id(parameter) for group in trainer.optimizers[0].param_groups for parameter in group["params"]}
    assert optimized == {id(parameter) for parameter in module.unet.parameters() if parameter.requires_grad}
    assert {name.split(".")[0] for name in checkpoint["state_dict"]} == {"unet"}
    assert len(checkpoint["state_dict"]) == len(module.unet.state_dict())


def test_a_checkpoint_loads_strictly_and_brings_the_trained_weights(make_stage2, clip_batch, train, tmp_path):
    module = make_stage2()
    train(module, [clip_batch], steps=1).save_checkpoint(tmp_path / "one.ckpt")
    fresh = make_stage2()
    frozen_before = {name: tensor.clone() for name, tensor in fresh.losses.state_dict().items()}
    checkpoint = torch.load(tmp_path / "one.ckpt", weights_only=True)
    fresh.on_load_checkpoint(checkpoint)
    fresh.load_state_dict(checkpoint["state_dict"], strict=True)
    assert all(torch.equal(fresh.unet.state_dict()[name], tensor) for name, tensor in module.unet.state_dict().items())
    assert all(torch.equal(fresh.losses.state_dict()[name], tensor) for name, tensor in frozen_before.items())


def test_a_checkpoint_that_lacks_a_weight_of_the_unet_does_not_load(make_stage1, clip_batch, train, tmp_path):
    train(make_stage1(), [clip_batch], steps=1).save_checkpoint(tmp_path / "one.ckpt")
    checkpoint = torch.load(tmp_path / "one.ckpt", weights_only=True)
    del checkpoint["state_dict"]["unet.conv_in.weight"]
    fresh = make_stage1()
    fresh.on_load_checkpoint(checkpoint)
    with pytest.raises(RuntimeError, match=r"unet\.conv_in\.weight"):
        fresh.load_state_dict(checkpoint["state_dict"], strict=True)


def test_a_checkpoint_of_other_clips_is_refused(make_stage1, tiny_clip):
    module = make_stage1()
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    other = ClipSpec.from_dict({**tiny_clip.as_dict(), "fps": 30}, "here")
    with pytest.raises(ClipMismatch, match="fps 25 against 30"):
        make_stage1(clip=other).on_load_checkpoint(checkpoint)


def test_networks_that_judge_stay_in_eval_mode_through_training_and_validation(make_stage2, clip_batch, train):
    module = make_stage2()
    train(module, [clip_batch] * 2, steps=2, heldout=[clip_batch])
    judges = [network for term in module.losses.terms.values() for network in term.loss.children()]
    assert len(judges) == 3
    assert not any(part.training for network in [module.autoencoder, *judges] for part in network.modules())
    assert module.unet.training


def test_starting_from_a_folder_without_weights_is_refused(make_stage1, tmp_path):
    with pytest.raises(MissingWeights, match=r"no checkpoint, no export and no network there"):
        make_stage1().load_weights(str(tmp_path))


def test_starting_from_a_unet_of_another_size_is_refused(make_stage1, make_unet, tmp_path):
    unet = make_unet("none")
    unet.conv_in = nn.Conv2d(13, 8, 3)
    unet.save_pretrained(tmp_path / "unet")
    with pytest.raises(WrongWeights, match="conv_in"):
        make_stage1().load_weights(str(tmp_path))


def test_resuming_at_step_two_gives_the_same_weights_as_four_straight_steps(
    make_stage1, make_clip_batch, train, tmp_path
):
    batches = [make_clip_batch(1) for _ in range(4)]

    def at_step(step: int) -> None:
        torch.manual_seed(100 + step)  # noise and timesteps of a step, whichever run takes it

    def module_with_weights(seed: int):
        torch.manual_seed(seed)
        module = make_stage1()
        module.on_train_batch_start = lambda batch, batch_idx: at_step(module.global_step)
        return module

    straight = module_with_weights(7)
    train(straight, batches, steps=4)
    train(module_with_weights(7), batches, steps=2).save_checkpoint(tmp_path / "two.ckpt")
    resumed = module_with_weights(8)
    later_first = (
        batches[2:] + batches[:2]
    )  # a resumed loader begins anew: give it the order the straight run has from step two
    trainer = train(resumed, later_first, steps=4, checkpoint=tmp_path / "two.ckpt")
    assert trainer.global_step == 4
    for name, tensor in straight.unet.state_dict().items():
        torch.testing.assert_close(resumed.unet.state_dict()[name], tensor, rtol=0, atol=1e-6, msg=name)


def test_generating_fills_the_mask_keeps_the_rest_and_repeats_itself(make_stage2, make_clip_batch):
    module, batch = make_stage2(), make_clip_batch(2)
    before = torch.random.get_rng_state()
    made = module.generate(batch)
    kept = (batch["keep_mask"] == 1)[:, None].expand_as(made)
    assert made.shape == batch["frames"].shape
    torch.testing.assert_close(made[kept], batch["frames"][kept])
    assert (made[~kept] - batch["frames"][~kept]).abs().mean() > 0.01
    assert torch.equal(module.generate(batch), made)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_is_generated_for_a_clip_depends_on_that_clip_alone(make_stage2, make_clip_batch):
    module, batch = make_stage2(), make_clip_batch(2)
    alone = {key: value[:1] for key, value in batch.items()}
    torch.testing.assert_close(module.generate(alone)[0], module.generate(batch)[0], rtol=0, atol=1e-5)
