"""A generator without diffusion: it keeps what the mask keeps, learns to speak, and is served every loss of frames."""

from functools import partial
from typing import Any

import pytest
import torch
from diffusers.optimization import get_constant_schedule
from torch import Tensor, nn

from lipsync_lightning.clip import ClipBatch
from lipsync_lightning.errors import BadConfig, WrongWeights
from lipsync_lightning.losses.weighted import WeightedLoss, WeightedLosses
from lipsync_lightning.models.wav2lip import Wav2LipGenerator
from lipsync_lightning.modules.wav2lip import Wav2LipModule

TERMS = {"reconstruction": 1.0, "sync": 0.05, "perceptual": 0.1, "trepa": 10.0}


@pytest.fixture
def make_module(all_losses, clip_batch, tiny_clip):
    num_tokens, token_width = clip_batch["audio"].shape[2:]

    def make(**changes: Any) -> Wav2LipModule:
        losses = all_losses()
        losses.terms["reconstruction"] = WeightedLoss(weight=1.0, loss=nn.L1Loss())
        del losses.terms["noise"]
        arguments = {
            "losses": losses,
            "generator": Wav2LipGenerator(
                channels=[8, 16, 24], speech_channels=16, num_tokens=num_tokens, token_width=token_width
            ),
            "optimizer": partial(torch.optim.Adam, lr=1e-2),
            "schedule": get_constant_schedule,
            "clip": tiny_clip,
            "gradient_checkpointing": False,
        }
        return Wav2LipModule(**{**arguments, **changes})

    return make


def reconstruction_only() -> WeightedLosses:
    return WeightedLosses(terms={"reconstruction": WeightedLoss(weight=1.0, loss=nn.L1Loss())})


def test_kept_pixels_are_those_of_the_batch_to_the_bit_and_the_others_are_generated(make_module, clip_batch):
    clip_batch["keep_mask"] = (clip_batch["keep_mask"] > 0.5).float()
    frames = make_module()(clip_batch)
    kept = (clip_batch["keep_mask"] == 1).unsqueeze(1).expand_as(frames)
    assert torch.equal(frames[kept], clip_batch["frames"][kept])
    assert (frames[~kept] != clip_batch["frames"][~kept]).all()


def test_the_masked_pixels_are_not_looked_at(make_module, clip_batch):
    module = make_module().eval()
    clip_batch["keep_mask"] = (clip_batch["keep_mask"] > 0.5).float()
    hole = 1 - clip_batch["keep_mask"].unsqueeze(1)
    other_mouths = ClipBatch(
        **{**clip_batch, "frames": clip_batch["frames"] + hole * torch.randn_like(clip_batch["frames"])}
    )
    with torch.no_grad():
        assert torch.equal(module(clip_batch), module(other_mouths))


def test_every_named_loss_is_logged_and_the_total_is_their_weighted_sum(make_module, clip_batch, train):
    metrics = train(make_module(), [clip_batch], steps=1, heldout=[clip_batch]).callback_metrics
    for split in ("train", "val"):
        total = sum(weight * metrics[f"{split}/loss_{name}"].item() for name, weight in TERMS.items())
        assert metrics[f"{split}/loss"].item() == pytest.approx(total, rel=1e-4)
    assert len(metrics) == 2 * (1 + len(TERMS))


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_gradient_of_every_term_reaches_the_whole_generator_and_no_judge(
    term, checkpointing, make_module, clip_batch
):
    module = make_module(gradient_checkpointing=checkpointing)
    value = module.losses(module.loss_inputs(clip_batch))[1][term]
    value.backward()
    convolutions = [part for part in module.generator.modules() if isinstance(part, nn.Conv2d)]
    assert all(part.weight.grad is not None and part.weight.grad.any() for part in convolutions)
    assert all(parameter.grad is None for parameter in module.losses.parameters())


def test_frames_are_generated_once_where_four_terms_look_at_them(make_module, clip_batch, monkeypatch):
    module, calls = make_module(), []
    generate = module.generator.forward
    monkeypatch.setattr(module.generator, "forward", lambda *inputs: calls.append(1) or generate(*inputs))
    module.training_step(clip_batch, 0)
    assert len(calls) == 1


def test_a_term_of_diffusion_is_refused(make_module, clip_batch):
    losses = WeightedLosses(terms={"noise": WeightedLoss(weight=1.0, loss=nn.MSELoss())})
    with pytest.raises(
        BadConfig, match=r"\['noise'\]; this module serves \['perceptual', 'reconstruction', 'sync', 'trepa'\]"
    ):
        make_module(losses=losses).training_step(clip_batch, 0)


def test_only_the_generator_learns_and_is_kept_in_checkpoints(make_module, clip_batch, train, tmp_path):
    module = make_module()
    judges = {name: tensor.clone() for name, tensor in module.losses.state_dict().items()}
    train(module, [clip_batch], steps=1).save_checkpoint(tmp_path / "one.ckpt")
    checkpoint = torch.load(tmp_path / "one.ckpt", weights_only=True)
    assert {name.split(".")[0] for name in checkpoint["state_dict"]} == {"generator"}
    assert all(torch.equal(module.losses.state_dict()[name], tensor) for name, tensor in judges.items())
    assert not any(part.training for term in module.losses.terms.values() for part in term.loss.children())


def test_a_run_resumes_from_a_checkpoint_and_another_starts_from_its_generator(
    make_module, clip_batch, train, tmp_path
):
    first = make_module()
    train(first, [clip_batch], steps=1).save_checkpoint(tmp_path / "one.ckpt")
    trained = {name: tensor.clone() for name, tensor in first.generator.state_dict().items()}
    assert train(make_module(), [clip_batch], steps=2, checkpoint=tmp_path / "one.ckpt").global_step == 2
    other = make_module()
    other.load_weights(str(tmp_path / "one.ckpt"))
    assert all(torch.equal(other.generator.state_dict()[name], tensor) for name, tensor in trained.items())
    smaller = Wav2LipGenerator(channels=[8, 16], speech_channels=16, num_tokens=3, token_width=8)
    with pytest.raises(WrongWeights, match="face_encoder"):
        make_module(generator=smaller).load_weights(str(tmp_path / "one.ckpt"))


def speaking_clips(batch: ClipBatch) -> ClipBatch:
    """Four clips that differ in sound and mouth only: how bright the hole is, another one in each frame, is said by the tokens."""
    hole = 1 - batch["keep_mask"].unsqueeze(1)
    brightness_BT = torch.linspace(-0.9, 0.9, 16)[torch.randperm(16)].reshape(4, 4)
    batch["frames"] = batch["frames"][:1] * (1 - hole) + brightness_BT[:, :, None, None, None] * hole
    batch["reference"] = batch["reference"][:1].expand(4, -1, -1, -1, -1)
    return batch


def mouth_error(module: Wav2LipModule, batch: ClipBatch) -> float:
    with torch.no_grad():
        difference: Tensor = (module.eval()(batch) - batch["frames"]).abs()
    return (difference.sum() / (1 - batch["keep_mask"]).sum() / 12).item()  # 4 frames of 3 colours


def test_it_learns_four_clips_by_heart_but_not_from_sound_that_changes_places_every_step(
    make_module, make_clip_batch, train
):
    batch = speaking_clips(make_clip_batch(4))

    def error_after(training: list[ClipBatch]) -> float:
        torch.manual_seed(1)
        module = make_module(losses=reconstruction_only())
        train(module, training, steps=len(training))
        return mouth_error(module, batch)

    shuffled = [
        ClipBatch(**{**batch, "audio": batch["audio"][torch.randperm(4)][:, torch.randperm(4)]}) for _ in range(30)
    ]
    assert error_after([batch] * 30) < 0.15  # knowing nothing of the sound leaves 0.48
    assert error_after(shuffled) > 0.35
