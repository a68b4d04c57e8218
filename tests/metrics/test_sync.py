from typing import Any

import pytest
import torch
from torch import Tensor

from lipsync_lightning.clip import ClipSpec, lower_half
from lipsync_lightning.errors import ClipMismatch, ClipTooShort
from lipsync_lightning.media.mel import mel_window
from lipsync_lightning.metrics.sync import sync_score, syncnet_embeddings
from lipsync_lightning.models.syncnet import StableSyncNet
from oracle import uniform

CLIP = ClipSpec(num_frames=4, fps=25, resolution=16, sample_rate_hz=16000, mel_hz=100, num_mels=8)


@pytest.fixture(scope="module")
def syncnet() -> StableSyncNet:
    torch.manual_seed(1)
    shared: dict[str, Any] = {"attn_blocks": [0, 0, 0], "dropout": 0.5, "norm_num_groups": 4}
    return StableSyncNet(
        audio_encoder={"in_channels": 1, "block_out_channels": [8, 8, 16], "downsample_factors": [2, 2, [2, 4]], **shared},
        visual_encoder={"in_channels": 12, "block_out_channels": [8, 8, 16], "downsample_factors": [2, 2, [2, 4]], **shared},
    ).eval()


def faces(num_frames: int = 9, resolution: int = 16) -> Tensor:
    return torch.from_numpy(uniform("faces", (num_frames, 3, resolution, resolution))).float()


def mel(num_columns: int) -> Tensor:
    return torch.from_numpy(uniform("mel", (8, num_columns))).float()


def test_there_is_one_window_for_every_start_that_frames_and_sound_allow(syncnet: StableSyncNet):
    num_windows = [len(syncnet_embeddings(syncnet, faces(), mel(columns), CLIP)[0]) for columns in (100, 36, 35, 16)]
    assert num_windows == [6, 6, 5, 1]


def test_each_window_is_embedded_as_if_it_were_alone(syncnet: StableSyncNet):
    vision, audio = syncnet_embeddings(syncnet, faces(), mel(40), CLIP, batch_size=4)
    with torch.no_grad():
        alone = syncnet(lower_half(faces()[3:7]).reshape(1, 12, 8, 16), mel_window(mel(40), 3, CLIP)[None])
    torch.testing.assert_close((vision[3:4], audio[3:4]), alone)


def test_the_batch_size_does_not_change_the_score(syncnet: StableSyncNet):
    one, three = (sync_score(syncnet, faces(), mel(40), CLIP, batch_size=size, max_shift=2) for size in (1, 3))
    assert one == pytest.approx(three, abs=1e-5)


def test_a_syncnet_in_training_is_judged_without_dropout_and_stays_in_training(syncnet: StableSyncNet):
    expected = syncnet_embeddings(syncnet, faces(), mel(40), CLIP)
    found = syncnet_embeddings(syncnet.train(), faces(), mel(40), CLIP)
    torch.testing.assert_close(found, expected)
    assert syncnet.training
    syncnet.eval()


@pytest.mark.parametrize(("num_frames", "num_columns"), [(3, 100), (9, 15)])
def test_a_video_shorter_than_one_clip_is_refused(syncnet: StableSyncNet, num_frames: int, num_columns: int):
    with pytest.raises(ClipTooShort, match=f"needs 4 frames and 16 mel columns, got {num_frames} and {num_columns}"):
        sync_score(syncnet, faces(num_frames), mel(num_columns), CLIP)


def test_faces_of_another_resolution_are_refused(syncnet: StableSyncNet):
    with pytest.raises(ClipMismatch, match="16x16"):
        sync_score(syncnet, faces(resolution=32), mel(40), CLIP)
