import pytest
import torch
from torch import nn

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.losses.sync import SyncLoss
from lipsync_lightning.losses.weighted import WeightedLoss, WeightedLosses
from lipsync_lightning.modules.draws import ClipDraws
from lipsync_lightning.modules.unet_other_speech import OtherSpeechStage2Module, lenders


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


@pytest.mark.parametrize(
    ("ids", "expected"),
    [("abc", [1, 2, 0]), ("aabb", [2, 2, 0, 0]), ("aba", [1, 2, 1]), ("aa", [0, 1]), ("a", [0])],
)
def test_speech_is_borrowed_from_the_next_window_of_another_clip(ids, expected):
    assert lenders(list(ids)) == expected


def test_each_clip_is_judged_by_the_speech_it_borrows(module, make_clip_batch):
    batch = make_clip_batch(4) | {"id": ["a", "a", "b", "b"]}
    _, mel = inputs(module, batch)
    assert torch.equal(mel, batch["mel"][[2, 2, 0, 0]])


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


def test_windows_of_one_clip_lend_each_other_nothing_and_training_says_so(module, make_clip_batch):
    with pytest.raises(BadConfig, match=r"all 2 windows of a batch are of a; set data\.batch_size"):
        module.training_step(make_clip_batch(2) | {"id": ["a", "a"]}, 0)


def test_a_held_out_batch_of_one_clip_is_validated_without_the_term(module, make_clip_batch, train):
    module.losses.terms["noise"].weight = 0.0
    trainer = train(module, [make_clip_batch(2)], steps=1, heldout=[make_clip_batch(1)])
    assert trainer.callback_metrics["val/loss_sync_other"].item() == 0.0


def test_the_term_trains_the_unet(module, make_clip_batch, train):
    before = [parameter.detach().clone() for parameter in module.unet.parameters() if parameter.requires_grad]
    module.losses.terms["noise"].weight = 0.0
    train(module, [make_clip_batch(2)], steps=1)
    after = [parameter for parameter in module.unet.parameters() if parameter.requires_grad]
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
