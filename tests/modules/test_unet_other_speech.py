import pytest
import torch
from torch import nn

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.losses.sync import SyncLoss
from lipsync_lightning.losses.weighted import WeightedLoss, WeightedLosses
from lipsync_lightning.modules.draws import ClipDraws
from lipsync_lightning.modules.unet_other_speech import OtherSpeechStage2Module


@pytest.fixture
def module(make_stage2, make_syncnet) -> OtherSpeechStage2Module:
    built = make_stage2()
    terms = {
        "noise": WeightedLoss(weight=1.0, loss=nn.MSELoss()),
        "sync_other": WeightedLoss(weight=0.3, loss=SyncLoss(syncnet=make_syncnet(), resolution=32)),
    }
    built.__class__ = OtherSpeechStage2Module  # the same arguments, another set of terms
    built.losses = WeightedLosses(terms=terms)
    with torch.no_grad():
        for parameter in built.unet.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))  # past the layers that start at zero
    return built


def inputs(module, batch):
    step = module.denoise(batch, torch.ones_like(batch["seed"]).bool(), ClipDraws(batch["seed"], "cpu"))
    return module.loss_inputs(batch, step)["sync_other"]()


def test_each_clip_is_judged_by_the_speech_of_the_one_before_it(module, make_clip_batch):
    batch = make_clip_batch(3)
    _, mel = inputs(module, batch)
    assert torch.equal(mel, batch["mel"][[2, 0, 1]])


def test_the_frames_follow_the_speech_they_borrow_and_not_their_own(module, make_clip_batch):
    batch = make_clip_batch(2)
    frames, _ = inputs(module, batch)
    changed = {**batch, "audio": batch["audio"].clone()}
    changed["audio"][1] += 1
    others, _ = inputs(module, changed)
    assert (others[0] - frames[0]).abs().max() > 1e-5
    torch.testing.assert_close(others[1], frames[1])


def test_nothing_of_the_real_mouth_reaches_the_estimate(module, make_clip_batch):
    batch = make_clip_batch(2)
    frames, _ = inputs(module, batch)
    hole = batch["keep_mask"][:, None] == 0
    other_mouths, _ = inputs(module, {**batch, "frames": torch.where(hole, -batch["frames"], batch["frames"])})
    torch.testing.assert_close(other_mouths, frames)


def test_a_clip_alone_has_nobody_to_borrow_from(module, make_clip_batch):
    with pytest.raises(BadConfig, match=r"data\.batch_size"):
        module.training_step(make_clip_batch(1), 0)


def test_the_term_trains_the_unet(module, make_clip_batch, train):
    before = [parameter.detach().clone() for parameter in module.unet.parameters() if parameter.requires_grad]
    module.losses.terms["noise"].weight = 0.0
    train(module, [make_clip_batch(2)], steps=1)
    after = [parameter for parameter in module.unet.parameters() if parameter.requires_grad]
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
