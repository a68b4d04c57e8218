from typing import Any

import pytest
import torch

from lipsync_lightning.data.augment import Augment
from lipsync_lightning.errors import BadConfig

NOTHING: dict[str, Any] = {
    **{"flip": 0.0, "colour": 0.0, "shift": 0.0, "scale": 0.0, "blur": 0.0, "compression": 0.0},
    **{"gain_db": 0.0, "noise_db": 0.0, "masked_mels": 0},
}


def batch_of(*seeds: int) -> dict[str, Any]:
    """Windows that hold one still picture and the same sound."""
    draws = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (3, 16, 32), generator=draws, dtype=torch.uint8)
    frames = picture.expand(len(seeds), 4, 3, 16, 32)
    mel = (torch.rand(1, 20, 16, generator=draws) - 0.5).expand(len(seeds), 1, 20, 16)
    return {"seed": torch.tensor(seeds), "frames": frames, "reference": frames, "mel": mel, "id": list(map(str, seeds))}


def changed(*seeds: int, **settings: Any) -> dict[str, Any]:
    return Augment(**NOTHING | settings)(batch_of(*seeds), ("frames", "reference"), ("mel",))


def test_without_strength_nothing_changes():
    for key, value in changed(1, 2).items():
        assert key == "id" or torch.equal(value, batch_of(1, 2)[key]), key


def test_a_window_is_changed_by_its_own_seed_whatever_else_is_in_the_batch():
    augment = Augment()
    (one, other), (alone,) = (augment(batch_of(*seeds), ("frames",), ("mel",))["frames"] for seeds in ((7, 8), (8,)))
    assert torch.equal(other, alone)
    assert not torch.equal(one, other)


def test_all_frames_of_a_window_and_its_reference_are_changed_alike():
    found = Augment()(batch_of(1, 2, 3), ("frames", "reference"), ("mel",))
    assert torch.equal(found["frames"], found["reference"])
    assert torch.equal(found["frames"], found["frames"][:, :1].expand_as(found["frames"]))
    assert not torch.equal(found["frames"], batch_of(1, 2, 3)["frames"])


def test_pictures_are_mirrored_moved_and_scaled_by_as_much_as_was_said():
    assert torch.equal(changed(1, flip=1.0)["frames"], batch_of(1)["frames"].flip(-1))
    for seed in range(5):
        frames, given = changed(seed, shift=0.1)["frames"], batch_of(seed)["frames"]
        moves = [(y, x) for y in range(-4, 5) for x in range(-4, 5) if torch.equal(
            frames[..., 4:-4, 4:-4], given.roll((y, x), (-2, -1))[..., 4:-4, 4:-4])]  # fmt: skip
        assert len(moves) == 1
        assert max(map(abs, moves[0])) <= 3
    assert changed(1, scale=0.2)["frames"].shape == batch_of(1)["frames"].shape


def test_sound_changes_in_loudness_and_pitch_range_and_never_in_time():
    louder = changed(1, gain_db=10.0)["mel"] - batch_of(1)["mel"]
    assert louder.std() < 1e-6
    assert 0 < float(louder.mean().abs()) <= 0.8
    masked = changed(4, masked_mels=10)["mel"] != batch_of(4)["mel"]
    assert torch.equal(masked, masked[..., :1].expand_as(masked)), "whole bins"
    assert 0 < int(masked[0, 0, :, 0].sum()) <= 10
    assert float((changed(1, noise_db=5.0)["mel"] - batch_of(1)["mel"]).std()) == pytest.approx(0.4, rel=0.2)


def test_blur_and_compression_take_detail_away_and_move_nothing():
    plain = changed(1)["frames"].float()
    for settings in ({"blur": 0.1}, {"compression": 1.0}):
        frames = changed(1, **settings)["frames"].float()
        assert not torch.equal(frames, plain)
        assert frames.diff(dim=-1).abs().mean() < plain.diff(dim=-1).abs().mean()
        assert (frames.mean() - plain.mean()).abs() < 2


@pytest.mark.parametrize("wrong", [{"flip": 2.0}, {"shift": -0.1}, {"blur": float("nan")}, {"masked_mels": 81}])
def test_strengths_that_mean_nothing_are_refused(wrong: dict[str, Any]):
    with pytest.raises(BadConfig, match=rf"data\.samples\.augment\.{next(iter(wrong))}="):
        Augment(**NOTHING | wrong)
