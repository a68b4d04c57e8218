from typing import Any

import pytest
import torch
from torch import Tensor

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import ClipMismatch, ClipTooShort
from lipsync_lightning.evaluation.sync_score import sync_score
from lipsync_lightning.models.syncnet import StableSyncNet
from oracle import uniform

CLIP = ClipSpec(num_frames=4, fps=25, resolution=16, sample_rate_hz=16000, mel_hz=100, num_mels=8)


@pytest.fixture(scope="module")
def syncnet() -> StableSyncNet:
    torch.manual_seed(1)
    shared: dict[str, Any] = {"attn_blocks": [0, 0, 0], "dropout": 0.5, "norm_num_groups": 4}
    return StableSyncNet(
        audio_encoder={
            "in_channels": 1,
            "block_out_channels": [8, 8, 16],
            "downsample_factors": [2, 2, [2, 4]],
            **shared,
        },
        visual_encoder={
            "in_channels": 12,
            "block_out_channels": [8, 8, 16],
            "downsample_factors": [2, 2, [2, 4]],
            **shared,
        },
    ).eval()


def faces(num_frames: int = 9, resolution: int = 16) -> Tensor:
    return torch.from_numpy(uniform("faces", (num_frames, 3, resolution, resolution))).float()


def mel(num_columns: int) -> Tensor:
    return torch.from_numpy(uniform("mel", (8, num_columns))).float()


def test_the_batch_size_does_not_change_the_score(syncnet: StableSyncNet):
    one, three = (sync_score(syncnet, faces(), mel(40), CLIP, batch_size=size, max_shift=2) for size in (1, 3))
    assert one == pytest.approx(three, abs=1e-5)


@pytest.mark.parametrize(("num_frames", "num_columns"), [(3, 100), (9, 15)])
def test_a_video_shorter_than_one_clip_is_refused(syncnet: StableSyncNet, num_frames: int, num_columns: int):
    with pytest.raises(ClipTooShort, match=f"needs 4 frames and 16 mel columns, got {num_frames} and {num_columns}"):
        sync_score(syncnet, faces(num_frames), mel(num_columns), CLIP)


def test_faces_of_another_resolution_are_refused(syncnet: StableSyncNet):
    with pytest.raises(ClipMismatch, match="16x16"):
        sync_score(syncnet, faces(resolution=32), mel(40), CLIP)
