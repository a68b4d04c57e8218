from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from lipsync_lightning.media.masks import keep_mask, latent_keep_mask

ORACLE = np.load(Path(__file__).parents[1] / "fixtures" / "mask_oracle.npz")


def test_the_mask_at_256_is_the_released_one() -> None:
    released = np.unpackbits(ORACLE["mask_256"]).reshape(256, 256)
    assert (keep_mask(256).numpy() == released).all()


def test_the_latent_mask_at_512_is_the_released_one() -> None:
    channel = latent_keep_mask(keep_mask(512), 8)
    assert np.abs(channel.numpy() - ORACLE["channel_64"] / 255).max() < 1e-6


@pytest.mark.parametrize("resolution", [64, 128, 512])
def test_other_sizes_cover_the_same_part_of_the_face(resolution: int) -> None:
    mask = keep_mask(resolution)
    assert (mask.shape, mask.dtype) == ((resolution, resolution), torch.float32)
    assert 0 <= mask.min() <= mask.max() <= 1
    assert 1 - mask.mean().item() == pytest.approx(0.407, abs=2e-3)


def test_the_regions_are_nested_and_grow() -> None:
    holes = [keep_mask(256, region) == 0 for region in ("mouth", "released", "face")]
    assert [round(hole.float().mean().item(), 3) for hole in holes] == [0.129, 0.407, 0.848]
    assert all((large | ~small).all() for small, large in pairwise(holes))
