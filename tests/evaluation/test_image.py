import math

import pytest
import torch
from torch import Tensor, nn

from lipsync_lightning.evaluation.image import FRAMES_AT_ONCE, mouth_quality
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

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        self.sizes.append(tuple(one.shape))
        return (one - other).abs().mean(dim=(1, 2, 3), keepdim=True)


def video(name: str, num_frames: int = 2) -> Tensor:
    return torch.from_numpy(uniform(name, (num_frames, 3, 32, 32))).float() * 0.5


def quality(generated: Tensor, real: Tensor, network: nn.Module | None = None) -> dict[str, float]:
    return mouth_quality([(generated, real)], KEEP, network or MeanDifference())


def test_an_error_of_one_tenth_everywhere_is_26_decibels():
    assert quality(video("real") + 0.1, video("real"))["psnr"] == pytest.approx(20 * math.log10(2 / 0.1), abs=1e-3)


def test_pixels_that_the_model_was_given_do_not_count_and_outside_the_box_for_no_figure():
    generated, spoiled = video("real") + 0.1, torch.ones(2, 3, 32, 32)
    spoiled[..., 14:30, 6:26] = generated[..., 14:30, 6:26]
    assert quality(spoiled, video("real")) == quality(generated, video("real"))
    spoiled[..., KEEP == 1] = 1
    assert quality(spoiled, video("real"))["psnr"] == quality(generated, video("real"))["psnr"]


def test_a_blurred_mouth_scores_worse_in_all_three():
    torch.manual_seed(1)
    network = untrained_lpips()
    real = nn.functional.interpolate(video("real")[..., ::4, ::4], size=(32, 32), mode="bicubic").clamp(-1, 1)
    blurred = nn.functional.avg_pool2d(real, 9, stride=1, padding=4, count_include_pad=False)
    slightly, badly = (quality(real.lerp(blurred, share), real, network) for share in (0.2, 1.0))
    assert slightly["psnr"] > badly["psnr"]
    assert slightly["ssim"] > badly["ssim"]
    assert slightly["lpips"] < badly["lpips"]


def test_lpips_sees_the_mask_s_box_enlarged_with_its_proportions():
    network = MeanDifference()
    quality(video("generated", 20), video("real", 20), network)
    assert network.sizes == [(4, 3, 64, 80)]  # every fifth of twenty frames


def test_a_clip_in_pieces_scores_as_in_one_and_identical_ones_are_infinitely_close():
    generated, real = video("generated", 47), video("real", 47)
    pieces = zip(generated.split(FRAMES_AT_ONCE), real.split(FRAMES_AT_ONCE), strict=True)
    assert mouth_quality(pieces, KEEP, MeanDifference()) == pytest.approx(quality(generated, real), abs=1e-6)
    assert quality(real, real) == {"psnr": math.inf, "ssim": pytest.approx(1), "lpips": 0}
