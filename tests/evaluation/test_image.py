import math

import pytest
import torch
from torch import Tensor, nn

from lipsync_lightning.evaluation.image import MouthQuality, bounding_box, enlarged
from lipsync_lightning.losses.lpips import untrained_lpips
from oracle import uniform

KEEP = torch.ones(32, 32)
KEEP[14:30, 6:26] = 0
KEEP[14:18, 14:18] = 1  # the mask is not a rectangle


class MeanDifference(nn.Module):
    """Stands for LPIPS, and remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []
        self.was_training: list[bool] = []

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        self.sizes.append(tuple(one.shape))
        self.was_training.append(self.training)
        return (one - other).abs().mean(dim=(1, 2, 3), keepdim=True)


def video(name: str, num_frames: int = 2) -> Tensor:
    return torch.from_numpy(uniform(name, (num_frames, 3, 32, 32))).float() * 0.5


def quality(*pairs: tuple[Tensor, Tensor], lpips_network: nn.Module | None = None) -> dict[str, float]:
    metric = MouthQuality(lpips_network=lpips_network or MeanDifference())
    for generated, real in pairs:
        metric.update(generated, real, KEEP)
    return {name: float(value) for name, value in metric.compute().items()}


def test_an_error_of_one_tenth_everywhere_is_26_decibels():
    assert quality((video("real") + 0.1, video("real")))["psnr"] == pytest.approx(20 * math.log10(2 / 0.1), abs=1e-3)


def test_an_identical_mouth_is_perfect():
    found = quality((video("real"), video("real")))
    assert found == {"psnr": math.inf, "ssim": pytest.approx(1), "lpips": 0}


def test_pixels_that_the_model_was_given_do_not_count():
    generated = video("real") + 0.1
    spoiled = torch.where(KEEP == 1, torch.ones(()), generated)
    assert quality((spoiled, video("real")))["psnr"] == quality((generated, video("real")))["psnr"]
    outside = torch.ones(32, 32, dtype=torch.bool)
    outside[14:30, 6:26] = False
    spoiled = torch.where(outside, torch.ones(()), generated)
    assert quality((spoiled, video("real"))) == quality((generated, video("real")))


def test_a_blurred_mouth_scores_worse_in_all_three():
    torch.manual_seed(1)
    network = untrained_lpips()
    real = nn.functional.interpolate(video("real")[..., ::4, ::4], size=(32, 32), mode="bicubic").clamp(-1, 1)
    blurred = nn.functional.avg_pool2d(real, 9, stride=1, padding=4, count_include_pad=False)
    slightly, badly = (quality((real.lerp(blurred, share), real), lpips_network=network) for share in (0.2, 1.0))
    assert slightly["psnr"] > badly["psnr"]
    assert slightly["ssim"] > badly["ssim"]
    assert slightly["lpips"] < badly["lpips"]


def test_errors_are_pooled_within_a_clip_and_averaged_over_clips():
    real = torch.zeros(2, 3, 32, 32)
    uneven = real.clone()
    uneven[0] = 0.2  # half the frames: mean squared error 0.02
    within = 10 * math.log10(4 / 0.02)
    other = 10 * math.log10(4 / 0.01)
    assert quality((uneven, real), (real + 0.1, real))["psnr"] == pytest.approx((within + other) / 2, abs=1e-3)


def test_a_longer_clip_weighs_no_more_than_a_short_one():
    short, long = torch.zeros(1, 3, 32, 32), torch.zeros(20, 3, 32, 32)
    assert quality((short + 0.1, short), (long + 0.3, long))["lpips"] == pytest.approx(0.2, abs=1e-6)


def test_lpips_sees_the_mask_s_box_enlarged_with_its_proportions():
    network = MeanDifference()
    quality((video("generated", 20), video("real", 20)), lpips_network=network)
    assert network.sizes == [(4, 3, 64, 80)]  # every fifth of twenty frames
    assert enlarged(torch.zeros(1, 3, 70, 90)).shape == (1, 3, 70, 90)


def test_lpips_dropout_stays_off_when_a_module_around_it_trains():
    network = MeanDifference()
    metric = MouthQuality(lpips_network=network).train()
    metric.update(video("generated"), video("real"), KEEP)
    assert network.was_training == [False]


def test_the_box_is_the_smallest_around_the_generated_pixels():
    assert bounding_box(KEEP == 0) == (slice(14, 30), slice(6, 26))


def test_a_mask_that_keeps_everything_is_refused():
    with pytest.raises(ValueError, match="keeps every pixel"):
        MouthQuality(lpips_network=MeanDifference()).update(video("a"), video("b"), torch.ones(32, 32))


def test_videos_of_different_length_are_refused():
    with pytest.raises(ValueError, match=r"must fit.*\(3, 3, 32, 32\)"):
        MouthQuality(lpips_network=MeanDifference()).update(video("a", 3), video("b", 2), KEEP)
