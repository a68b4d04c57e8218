"""A generator without diffusion: it keeps what the mask keeps, learns to speak, and is served every loss of frames."""

from functools import partial
from typing import Any

import pytest
import torch
from diffusers.optimization import get_constant_schedule
from torch import nn

from lipsync_lightning.clip import ClipBatch
from lipsync_lightning.errors import WrongWeights
from lipsync_lightning.losses.mouth import ReconstructionLoss
from lipsync_lightning.losses.terms import WeightedLoss, WeightedLosses
from lipsync_lightning.models.wav2lip import Wav2LipGenerator
from lipsync_lightning.modules.wav2lip import Wav2LipModule

TERMS = {"reconstruction": 1.0, "sync": 0.05, "perceptual": 0.1, "trepa": 10.0}


@pytest.fixture
def make_module(losses_of, clip_batch, tiny_clip):
    num_tokens, token_width = clip_batch["audio"].shape[2:]
    tokens = {"num_tokens": num_tokens, "token_width": token_width}

    def make(**changes: Any) -> Wav2LipModule:
        losses = losses_of("sync", "perceptual", "trepa")
        losses.terms["reconstruction"] = WeightedLoss(weight=1.0, loss=ReconstructionLoss())
        arguments = {
            "losses": losses,
            "generator": Wav2LipGenerator(channels=[8, 16, 24], speech_channels=16, **tokens),
            "optimizer": partial(torch.optim.Adam, lr=1e-2),
            "schedule": get_constant_schedule,
            "clip": tiny_clip,
            "gradient_checkpointing": False,
        }
        return Wav2LipModule(**{**arguments, **changes})

    return make


def test_kept_pixels_stay_to_the_bit_and_masked_ones_are_generated_without_being_looked_at(make_module, clip_batch):
    module = make_module().eval()
    clip_batch["keep_mask"] = (clip_batch["keep_mask"] > 0.5).float()
    hole = 1 - clip_batch["keep_mask"].unsqueeze(1)
    noise = hole * torch.randn_like(clip_batch["frames"])
    with torch.no_grad():
        frames, of_other_mouths = (
            module({**clip_batch, "frames": given}) for given in (clip_batch["frames"], clip_batch["frames"] + noise)
        )
    kept = (hole == 0).expand_as(frames)
    assert torch.equal(frames[kept], clip_batch["frames"][kept])
    assert (frames[~kept] != clip_batch["frames"][~kept]).all()
    assert torch.equal(frames, of_other_mouths)


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_gradient_of_every_term_reaches_the_whole_generator_and_no_judge(
    term, checkpointing, make_module, clip_batch
):
    module = make_module(gradient_checkpointing=checkpointing)
    module.losses(module.step(clip_batch))[1][term].backward()
    convolutions = [part for part in module.generator.modules() if isinstance(part, nn.Conv2d)]
    assert all(part.weight.grad is not None and part.weight.grad.any() for part in convolutions)
    assert all(parameter.grad is None for parameter in module.losses.parameters())


def test_only_the_generator_is_kept_and_other_runs_resume_or_start_from_it(make_module, clip_batch, train, tmp_path):
    first = make_module()
    judges = {name: tensor.clone() for name, tensor in first.losses.state_dict().items()}
    train(first, [clip_batch], steps=1).save_checkpoint(tmp_path / "one.ckpt")
    assert all(torch.equal(first.losses.state_dict()[name], tensor) for name, tensor in judges.items())
    assert not any(part.training for term in first.losses.terms.values() for part in term.loss.children())
    checkpoint = torch.load(tmp_path / "one.ckpt", weights_only=True)
    assert {name.split(".")[0] for name in checkpoint["state_dict"]} == {"generator"}
    assert train(make_module(), [clip_batch], steps=2, checkpoint=tmp_path / "one.ckpt").global_step == 2
    other = make_module()
    other.load_weights(str(tmp_path / "one.ckpt"))
    trained = first.generator.state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in other.generator.state_dict().items())
    smaller = Wav2LipGenerator(channels=[8, 16], speech_channels=16, num_tokens=3, token_width=8)
    with pytest.raises(WrongWeights, match="face_encoder"):
        make_module(generator=smaller).load_weights(str(tmp_path / "one.ckpt"))


def speaking_clips(batch: ClipBatch) -> ClipBatch:
    """Four clips that differ in sound and mouth only: the tokens say how bright each frame's hole is."""
    hole = 1 - batch["keep_mask"].unsqueeze(1)
    brightness_BT = torch.linspace(-0.9, 0.9, 16)[torch.randperm(16)].reshape(4, 4)
    batch["frames"] = batch["frames"][:1] * (1 - hole) + brightness_BT[:, :, None, None, None] * hole
    batch["reference"] = batch["reference"][:1].expand(4, -1, -1, -1, -1)
    return batch


def test_it_learns_four_clips_by_heart_but_not_from_sound_that_changes_places_every_step(
    make_module, make_clip_batch, train
):
    batch = speaking_clips(make_clip_batch(4))

    def error_after(training: list[Any]) -> float:
        torch.manual_seed(1)
        reconstruction = WeightedLoss(weight=1.0, loss=ReconstructionLoss())
        module = make_module(losses=WeightedLosses(terms={"reconstruction": reconstruction}))
        train(module, training, steps=len(training))
        with torch.no_grad():
            difference = (module.eval()(batch) - batch["frames"]).abs()
        return (difference.sum() / (1 - batch["keep_mask"]).sum() / 12).item()  # 4 frames of 3 colours

    shuffled = [{**batch, "audio": batch["audio"][torch.randperm(4)][:, torch.randperm(4)]} for _ in range(30)]
    assert error_after([batch] * 30) < 0.15  # knowing nothing of the sound leaves 0.48
    assert error_after(shuffled) > 0.35
