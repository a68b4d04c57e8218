import pytest
import torch
from einops import reduce

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.losses.other_speech import OtherSpeechSyncLoss, lenders
from lipsync_lightning.losses.terms import StepOutput, WeightedLoss

UNKNOWN = torch.full((4, 4, 3, 8, 8), torch.nan)  # of the real mouth: nothing of it may reach the estimate


@pytest.fixture
def loss(tiny_syncnet, ddim_velocity) -> OtherSpeechSyncLoss:
    return OtherSpeechSyncLoss(syncnet=tiny_syncnet, resolution=32, scheduler=ddim_velocity)


@pytest.fixture
def step_of():
    """A function of ids: a step whose U-Net says the mean of the tokens it hears, and whose decoder enlarges."""

    def predict(noisy, timesteps, audio):
        assert timesteps.unique().tolist() == [999]
        return noisy + weight * reduce(audio, "b t a d -> b t 1 1 1", "mean")

    def make(ids: str) -> StepOutput:
        num_clips = len(ids)
        return StepOutput(
            prediction=UNKNOWN[:num_clips],
            frames=UNKNOWN[:num_clips],
            noise=torch.randn(num_clips, 4, 3, 8, 8),
            audio=torch.randn(num_clips, 4, 3, 8),
            mel=torch.randn(num_clips, 1, 80, 13),
            ids=list(ids),
            decode=lambda latents: latents.repeat_interleave(4, dim=3).repeat_interleave(4, dim=4),
            predict=predict,
            weight=weight,
        )

    weight = torch.ones((), requires_grad=True)
    return make


@pytest.mark.parametrize(
    ("ids", "expected"),
    [("abc", [1, 2, 0]), ("aabb", [2, 2, 0, 0]), ("aba", [1, 2, 1]), ("aa", [0, 1]), ("a", [0])],
)
def test_speech_is_borrowed_from_the_next_window_of_another_clip(ids, expected):
    assert lenders(list(ids)) == expected


def test_each_clip_is_judged_by_the_speech_it_borrows_and_the_estimate_follows_that_speech(loss, step_of):
    step = step_of("aabb")
    frames, mel = loss.reads(step)
    assert torch.equal(mel, step.mel[[2, 2, 0, 0]])
    assert frames.isfinite().all()
    step.audio = step.audio.clone()
    step.audio[2] += 1
    changed = (loss.reads(step)[0] - frames).abs().amax(dim=(1, 2, 3, 4)) > 1e-5
    assert changed.tolist() == [True, True, False, False]


def test_a_batch_of_one_clip_is_refused_in_training_and_costs_nothing_in_validation(loss, step_of):
    with pytest.raises(BadConfig, match=r"all 2 windows of a batch are of a; set data\.batch_size"):
        loss.reads(step_of("aa"))
    assert WeightedLoss(weight=1.0, loss=loss.eval())(step_of("aa")).item() == 0.0


def test_the_gradient_reaches_the_unet(loss, step_of):
    step = step_of("ab")
    WeightedLoss(weight=1.0, loss=loss)(step).backward()
    assert step.weight.grad.abs() > 0
