"""What both stages have: what the U-Net is given, what a checkpoint holds, what is generated."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import ClipMismatch, WrongWeights
from lipsync_lightning.models.latentsync import unet_from_reference, unet_to_reference
from lipsync_lightning.models.reference_names import unet_arguments_from_reference
from lipsync_lightning.models.released import unet_config
from lipsync_lightning.models.unet import LipSyncUNet
from oracle import fill_state_dict

STAGES = ["make_stage1", "make_stage2"]


class RecordingUNet(nn.Module):
    """Remembers what it was given and predicts zeros, or what `answer` says."""

    dtype = torch.float32
    config = {"in_channels": 13}  # noqa: RUF012
    answer: Tensor | None = None

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, sample: Tensor, timestep: Tensor, audio: Tensor) -> Tensor:
        self.sample, self.timestep, self.audio = sample, timestep, audio
        return self.gain * sample[:, :4] if self.answer is None else self.answer


@pytest.fixture(params=STAGES)
def make(request, losses_of):
    """Makes either stage, trained on the diffusion target alone."""
    make_stage = request.getfixturevalue(request.param)
    return lambda **changes: make_stage(**{"losses": losses_of("noise"), **changes})


def test_the_unet_is_given_noisy_mask_masked_and_reference_latents(make, clip_batch, tiny_autoencoder):
    unet = RecordingUNet()
    make(unet=unet, trainable=[""]).training_step(clip_batch, 0)
    masked_frame = clip_batch["frames"][:, 1] * clip_batch["keep_mask"]
    assert unet.sample.shape == (2, 13, 4, 8, 8)
    assert torch.equal(unet.sample[:, 4, 1], clip_batch["keep_mask"][:, 0, ::4, ::4])
    torch.testing.assert_close(unet.sample[:, 5:9, 1], tiny_autoencoder.encode(masked_frame))
    torch.testing.assert_close(unet.sample[:, 9:13, 1], tiny_autoencoder.encode(clip_batch["reference"][:, 1]))


def test_a_clip_has_one_timestep_and_another_clip_another(make, make_clip_batch):
    unet = RecordingUNet()
    make(unet=unet, trainable=[""]).training_step(make_clip_batch(8), 0)
    assert unet.timestep.shape == (8,)
    assert len(unet.timestep.unique()) > 4
    assert 0 <= int(unet.timestep.min()) <= int(unet.timestep.max()) < 1000


@pytest.mark.parametrize(("dropout", "fewest", "most"), [(0.0, 0, 0), (0.5, 16, 48), (1.0, 64, 64)])
def test_dropout_silences_whole_clips(make, make_clip_batch, dropout, fewest, most):
    unet, batch = RecordingUNet(), make_clip_batch(64)
    make(unet=unet, trainable=[""], audio_dropout=dropout).training_step(batch, 0)
    silent = unet.audio.abs().amax(dim=(1, 2, 3)) == 0
    assert fewest <= int(silent.sum()) <= most
    assert torch.equal(unet.audio[~silent], batch["audio"][~silent])


def test_validation_hears_everything_and_draws_the_same_noise_every_time(make, clip_batch):
    unet = RecordingUNet()
    module = make(unet=unet, trainable=[""], audio_dropout=1.0)
    module.validation_step(clip_batch, 3)
    first = unet.sample.clone()
    torch.rand(5)
    module.validation_step(clip_batch, 3)
    assert torch.equal(unet.audio, clip_batch["audio"])
    assert torch.equal(unet.sample, first)


@pytest.mark.parametrize("schedule", ["ddim_epsilon", "ddim_velocity"])
def test_a_perfect_prediction_costs_nothing_and_decodes_to_what_was_encoded(
    request, make_stage2, clip_batch, denoised, schedule, tiny_autoencoder
):
    module = make_stage2(scheduler=request.getfixturevalue(schedule), unet=RecordingUNet(), trainable=[""])
    module.unet.answer = denoised(module, clip_batch).target.transpose(1, 2)
    step = denoised(module, clip_batch)
    torch.testing.assert_close(step.prediction, step.target)
    expected = tiny_autoencoder(clip_batch["frames"].flatten(0, 1)).unflatten(0, (2, 4))
    torch.testing.assert_close(step.frames_pred, expected, rtol=0, atol=1e-3)


def test_frozen_weights_are_neither_in_the_optimizer_nor_in_the_checkpoint(make_stage2, clip_batch, train, tmp_path):
    module = make_stage2()
    trainer = train(module, [clip_batch], steps=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    checkpoint = torch.load(tmp_path / "one.ckpt", weights_only=True)
    optimized = {id(parameter) for group in trainer.optimizers[0].param_groups for parameter in group["params"]}
    assert optimized == {id(parameter) for parameter in module.unet.parameters() if parameter.requires_grad}
    assert set(checkpoint["state_dict"]) == {f"unet.{name}" for name in module.unet.state_dict()}
    fresh = make_stage2()
    fresh.on_load_checkpoint(checkpoint)
    fresh.load_state_dict(checkpoint["state_dict"], strict=True)
    assert all(torch.equal(fresh.unet.state_dict()[name], tensor) for name, tensor in module.unet.state_dict().items())


def test_a_checkpoint_that_lacks_a_weight_or_is_of_other_clips_or_of_nobody_is_refused(make_stage1, tiny_clip):
    module = make_stage1()
    checkpoint = {"state_dict": module.state_dict()}
    with pytest.raises(WrongWeights, match="not a checkpoint of this library"):
        module.on_load_checkpoint(checkpoint)
    module.on_save_checkpoint(checkpoint)
    other = ClipSpec.from_dict({**tiny_clip.as_dict(), "fps": 30}, "here")
    with pytest.raises(ClipMismatch, match="fps 25 against 30"):
        make_stage1(clip=other).on_load_checkpoint(checkpoint)
    del checkpoint["state_dict"]["unet.conv_in.weight"]
    with pytest.raises(WrongWeights, match=r"a checkpoint of another configuration, .*unet\.conv_in\.weight"):
        module.on_load_checkpoint(checkpoint)


def test_networks_that_judge_stay_in_eval_mode_through_training_and_validation(make_stage2, clip_batch, train):
    module = make_stage2()
    train(module, [clip_batch] * 2, steps=2, heldout=[clip_batch])
    judges = [network for term in module.losses.terms.values() for network in term.loss.children()]
    assert len(judges) == 3
    assert not any(part.training for network in [module.autoencoder, *judges] for part in network.modules())
    assert module.unet.training


def test_starting_from_a_unet_of_another_size_is_refused(make_stage1, make_unet, tmp_path):
    unet = make_unet("none")
    unet.conv_in = nn.Conv2d(13, 8, 3)
    unet.save_pretrained(tmp_path / "unet")
    with pytest.raises(WrongWeights, match="conv_in"):
        make_stage1().load_weights(str(tmp_path))


@pytest.mark.parametrize("motion", ["none", "up", "all"])
def test_a_released_unet_starts_every_stage_without_the_temporal_modules_that_it_has_not(motion, make_stage1, tmp_path):
    kinds = {"down_block_types": ["CrossAttnDownBlock3D"], "up_block_types": ["CrossAttnUpBlock3D"]}
    sizes = {"block_out_channels": [32], "layers_per_block": 1, "attention_head_dim": 2, "cross_attention_dim": 8}
    sections = {kind: {**unet_config(kind), **kinds, **sizes, "norm_num_groups": 8} for kind in ("all", motion)}
    build = {kind: LipSyncUNet(**unet_arguments_from_reference(section)) for kind, section in sections.items()}
    file = fill_state_dict(unet_to_reference(build["all"]))  # under the names of latentsync_unet.pt
    released = unet_from_reference(file, sections["all"])
    released.save_pretrained(tmp_path / "unet")
    module = make_stage1(unet=build[motion])
    told = pytest.warns(UserWarning, match=r"left out are \d+ weights of temporal modules that this U-Net has not")
    with nullcontext() if motion == "all" else told:
        module.load_weights(str(tmp_path))
    own = module.unet.state_dict()
    assert all(torch.equal(weight, released.state_dict()[name]) for name, weight in own.items())
    assert (motion != "none") == any("motion_modules." in name for name in own)


def test_generating_fills_the_mask_keeps_the_rest_and_depends_on_each_clip_alone(make_stage2, make_clip_batch):
    module, batch = make_stage2(), make_clip_batch(2)
    before = torch.random.get_rng_state()
    made = module.generate(batch)
    kept = (batch["keep_mask"] == 1)[:, None].expand_as(made)
    torch.testing.assert_close(made[kept], batch["frames"][kept])
    assert (made[~kept] - batch["frames"][~kept]).abs().mean() > 0.01
    assert torch.equal(module.generate(batch), made)
    assert torch.equal(torch.random.get_rng_state(), before)
    alone = {key: value[:1] for key, value in batch.items()}
    torch.testing.assert_close(module.generate(alone)[0], made[0], rtol=0, atol=1e-5)
