import pytest
import torch

from lipsync_lightning.clip import ClipBatch
from lipsync_lightning.errors import BadConfig
from lipsync_lightning.losses.weighted import WeightedLoss, WeightedLosses
from lipsync_lightning.modules.draws import ClipDraws

STEPS = 40


def noise_loss(module, batch) -> float:
    """Averaged over many draws of noise and timestep."""
    with torch.no_grad():
        steps = [
            module.denoise(each, torch.ones_like(each["seed"]).bool(), ClipDraws(each["seed"], "cpu"))
            for each in new_draws(batch, 16)
        ]
    return sum(torch.nn.functional.mse_loss(step.prediction, step.target).item() for step in steps) / len(steps)


def new_draws(batch: ClipBatch, count: int) -> list[ClipBatch]:
    """The same clip with other seeds, as later epochs bring it."""
    return [{**batch, "seed": batch["seed"] + 1 + number} for number in range(count)]


def test_an_untrained_unet_predicts_zero_so_the_loss_is_the_variance_of_the_noise(make_stage1, make_clip_batch):
    assert noise_loss(make_stage1(), make_clip_batch(4)) == pytest.approx(1.0, abs=0.05)


def test_every_parameter_learns(make_stage1, clip_batch, train):
    module = make_stage1()
    before = {name: parameter.detach().clone() for name, parameter in module.unet.named_parameters()}
    train(module, [clip_batch] * 3, steps=3)  # what comes before a layer that starts at zero moves one step later
    assert [name for name, parameter in module.unet.named_parameters() if torch.equal(parameter, before[name])] == []


def test_the_loss_and_its_term_are_logged(make_stage1, clip_batch, train):
    trainer = train(make_stage1(), [clip_batch], steps=1, heldout=[clip_batch])
    assert set(trainer.callback_metrics) == {"train/loss", "train/loss_noise", "val/loss", "val/loss_noise"}
    assert trainer.callback_metrics["train/loss"] == trainer.callback_metrics["train/loss_noise"]


def test_one_clip_can_be_learned_by_heart_and_targets_of_another_draw_cannot(
    make_stage1, clip_batch, train, monkeypatch
):
    module = make_stage1()
    train(module, new_draws(clip_batch, STEPS), steps=STEPS)
    learned = noise_loss(module, clip_batch)

    control = make_stage1()
    honest = control.loss_inputs
    monkeypatch.setattr(control, "loss_inputs", lambda batch, step: shuffled(honest(batch, step)))
    train(control, new_draws(clip_batch, STEPS), steps=STEPS)
    assert learned < 0.7
    assert noise_loss(control, clip_batch) > 0.9


def shuffled(inputs):
    prediction, target = inputs["noise"]()
    return {
        "noise": lambda: (
            prediction,
            target[:, :, :, torch.randperm(target.shape[3])][..., torch.randperm(target.shape[4])],
        )
    }


def test_a_loss_that_looks_at_frames_is_refused(make_stage1, clip_batch):
    module = make_stage1(losses=WeightedLosses(terms={"sync": WeightedLoss(weight=1.0, loss=torch.nn.MSELoss())}))
    with pytest.raises(BadConfig, match=r"\['sync'\]; this module serves \['noise', 'noise_min_snr'\]"):
        module.training_step(clip_batch, 0)
