import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn

from lipsync_lightning.clip import ClipSpec, lower_half
from lipsync_lightning.errors import ClipMismatch, ClipTooShort, MissingWeights
from lipsync_lightning.evaluation.sync import (
    EvaluationSyncScorer,
    OwnSyncScorer,
    offset_and_confidence,
    pair_accuracy,
    syncnet_embeddings,
)
from lipsync_lightning.media.frames import to_float
from lipsync_lightning.media.mel import log_mel, mel_window
from lipsync_lightning.media.mfcc import mfcc, mfcc_window
from lipsync_lightning.models.judge_syncnet import JudgeSyncNet
from lipsync_lightning.models.syncnet import StableSyncNet
from oracle import fill_state_dict, uniform

CLIP = ClipSpec(num_frames=4, fps=25, resolution=16, sample_rate_hz=16000, mel_hz=100, num_mels=8)
FIXTURE = Path(__file__).parents[1] / "fixtures" / "av_sync.safetensors"
REFERENCE = {  # what the evaluation SyncNet's public code says of the fixture
    "offset0": (0, 0.9787424802780151, 3.475274085998535),
    "shift_plus3": (3, 1.1702054738998413, 3.269526958465576),
    "shift_minus4": (-4, 1.2208950519561768, 3.1875035762786865),
}


def embeddings(num_windows: int) -> Tensor:
    return torch.from_numpy(uniform("lips", (num_windows, 16))).float()


@pytest.mark.parametrize("case", REFERENCE)
def test_the_offset_is_what_the_evaluation_syncnet_s_public_code_says(case: str):
    fixture = load_file(FIXTURE)
    offset, distance, confidence = REFERENCE[case]
    found = offset_and_confidence(fixture["vision"], fixture[f"{case}.audio"])
    assert found.offset == offset
    assert found.distance == pytest.approx(distance, abs=1e-5)
    assert found.confidence == pytest.approx(confidence, abs=1e-5)


@pytest.mark.parametrize("shift", [-15, -4, 0, 1, 15])
def test_sound_that_comes_k_windows_early_has_the_offset_k(shift: int):
    vision = embeddings(60)
    assert offset_and_confidence(vision, vision.roll(-shift, dims=0)).offset == shift


def test_a_clip_shorter_than_the_largest_shift_can_be_scored_and_one_of_another_length_is_refused():
    vision = embeddings(4)
    assert offset_and_confidence(vision, vision.roll(-1, dims=0), max_shift=3).offset == 1
    with pytest.raises(ValueError, match=r"same windows.*\(4, 16\).*\(3, 16\)"):
        offset_and_confidence(vision, vision[1:])


def face_pixels(num_frames: int, side: int = 256) -> np.ndarray:
    coarse = (127.5 + 127.5 * uniform("faces", (num_frames, 8, 8, 3))).astype(np.uint8)
    return np.stack([cv2.resize(face, (side, side)) for face in coarse])


def noise(num_frames: float) -> np.ndarray:
    return (0.3 * uniform("sound", (round(640 * num_frames),))).astype(np.float32)


@pytest.fixture(scope="module")
def released_network() -> JudgeSyncNet:
    network = JudgeSyncNet().requires_grad_(False)
    network.load_state_dict(fill_state_dict(network.state_dict()))
    return network


@pytest.fixture(scope="module")
def released(released_network: JudgeSyncNet, tmp_path_factory: pytest.TempPathFactory) -> EvaluationSyncScorer:
    path = tmp_path_factory.mktemp("weights") / "syncnet_v2.model"
    torch.save(released_network.state_dict(), path)
    return EvaluationSyncScorer(path=str(path), device="cpu")


class Levels(nn.Module):
    """Lips and sound as five levels around their mean, one for each frame: brightness, and logarithm of the energy."""

    def forward_lip(self, lips: Tensor) -> Tensor:
        levels = lips.mean(dim=(1, 3, 4)) / 255
        return levels - levels.mean(dim=1, keepdim=True)

    def forward_aud(self, mfcc: Tensor) -> Tensor:
        levels = rearrange(mfcc[:, 0, 0], "b (t c) -> b t c", c=4)[..., 1] / 10
        return levels - levels.mean(dim=1, keepdim=True)


class LevelScorer(EvaluationSyncScorer):
    def load(self) -> Any:
        return Levels()


def flickering(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Grey frames of these levels, 0 to 1, and noise whose energy has them as its logarithm, times ten."""
    faces = np.broadcast_to((255 * levels).astype(np.uint8)[:, None, None, None], (len(levels), 32, 32, 3)).copy()
    amplitude = np.exp(5 * (levels - 1)).repeat(640)
    return faces, (amplitude * uniform("hiss", amplitude.shape)).astype(np.float32)


def test_the_evaluation_syncnet_says_what_its_network_says_of_single_windows(
    released: EvaluationSyncScorer, released_network: JudgeSyncNet
):
    faces, waveform = face_pixels(24), noise(24)
    bgr = np.stack([cv2.cvtColor(cv2.resize(face, (224, 224)), cv2.COLOR_RGB2BGR) for face in faces])
    lips = rearrange(torch.from_numpy(bgr).float(), "t h w c -> c t h w")
    sound = mfcc(torch.from_numpy(waveform))
    windows = [
        released_network(lips[None, :, start : start + 5], mfcc_window(sound, start)[None]) for start in range(24 - 5)
    ]
    vision, audio = (torch.cat(part) for part in zip(*windows, strict=True))
    assert released(faces, waveform) == pytest.approx(offset_and_confidence(vision, audio), rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("early", [-6, -1, 0, 3])
def test_sound_that_comes_early_has_a_positive_offset(early: int):
    levels = 0.5 + 0.5 * uniform("levels", (60,))
    faces, waveform = flickering(levels)
    heard = waveform[640 * (10 + early) : 640 * (50 + early)]
    assert LevelScorer(path="none", device="cpu")(faces[10:50], heard).offset == early


@pytest.mark.parametrize(("num_frames", "num_heard"), [(5, 30), (30, 5.9), (0, 30), (30, 0)])
def test_the_evaluation_syncnet_refuses_clips_of_less_than_six_frames(num_frames: int, num_heard: float):
    with pytest.raises(ClipTooShort, match="needs 6 frames with sound, got"):
        LevelScorer(path="none", device="cpu")(face_pixels(30, 32)[:num_frames], noise(num_heard))


def test_missing_weights_are_found_when_it_first_scores_and_other_ones_are_another_version(tmp_path: Path):
    scorer = EvaluationSyncScorer(path=str(tmp_path / "syncnet_v2.model"), device="cpu")
    assert scorer.version == "evaluation_syncnet:missing"
    with pytest.raises(MissingWeights, match=r"syncnet_v2\.model; get them with: .*needs=training"):
        scorer(face_pixels(6, 32), noise(6))
    Path(scorer.path).write_bytes(b"retrained")
    assert scorer.version != "evaluation_syncnet:missing"


@pytest.fixture(scope="module")
def syncnet() -> StableSyncNet:
    torch.manual_seed(1)
    shared: dict[str, Any] = {"attn_blocks": [0, 0, 0], "dropout": 0.5, "norm_num_groups": 4}
    shared |= {"block_out_channels": [8, 8, 16], "downsample_factors": [2, 2, [2, 4]]}
    encoders = {f"{name}_encoder": {"in_channels": n, **shared} for name, n in (("audio", 1), ("visual", 12))}
    return StableSyncNet(**encoders).eval()


@pytest.fixture(scope="module")
def own(syncnet: StableSyncNet, tmp_path_factory: pytest.TempPathFactory) -> OwnSyncScorer:
    folder = tmp_path_factory.mktemp("run") / "syncnet"
    syncnet.save_pretrained(folder)
    return OwnSyncScorer(path=str(folder), clip=CLIP, device="cpu")


def test_an_own_syncnet_says_what_its_network_says_of_single_windows(own: OwnSyncScorer, syncnet: StableSyncNet):
    pixels, waveform = face_pixels(20, 16), noise(20)
    frames = rearrange(to_float(pixels), "t h w c -> t c h w")
    mel = log_mel(torch.from_numpy(waveform), sample_rate_hz=16000, mel_hz=100, num_mels=8)
    with torch.no_grad():
        windows = [
            syncnet(lower_half(frames[start : start + 4]).reshape(1, 12, 8, 16), mel_window(mel, start, CLIP)[None])
            for start in range(20 - 3)
        ]
    vision, audio = (torch.cat(part) for part in zip(*windows, strict=True))
    assert own(pixels, waveform) == pytest.approx(offset_and_confidence(vision, audio), abs=1e-5)
    assert pickle.loads(pickle.dumps(own))(pixels, waveform) == own(pixels, waveform)
    assert own.version.startswith("own_syncnet:")


def test_an_own_syncnet_refuses_faces_and_clips_it_was_not_trained_for(own: OwnSyncScorer):
    with pytest.raises(ClipMismatch, match="16x16"):
        own(face_pixels(20, 32), noise(20))
    with pytest.raises(ClipTooShort, match="needs 4 frames"):
        own(face_pixels(3, 16), noise(20))
    longer = ClipSpec(**{**CLIP.as_dict(), "num_frames": 8})
    with pytest.raises(ClipMismatch, match="reads 12 channels of lips, 24 are wanted"):
        OwnSyncScorer(path=own.path, clip=longer, device="cpu")(face_pixels(20, 16), noise(20))


@pytest.mark.parametrize(("num_columns", "num_windows"), [(100, 6), (36, 6), (35, 5), (16, 1)])
def test_there_is_one_window_for_every_start_that_frames_and_sound_allow(syncnet, num_columns: int, num_windows: int):
    faces, mel = torch.zeros(9, 3, 16, 16, dtype=torch.uint8), torch.zeros(8, num_columns)
    assert len(syncnet_embeddings(syncnet, faces, mel, CLIP)[0]) == num_windows


class Known(nn.Module):
    """Embeds lips and sound by the angle that the test wrote into them, so that it is known which fit."""

    device = torch.device("cpu")

    def forward(self, *both: Tensor) -> tuple[Tensor, ...]:
        angles = [each.flatten(1).mean(dim=1) for each in both]
        return tuple(torch.stack([angle.cos(), angle.sin()], dim=1) for angle in angles)

    def probability(self, similarity: Tensor) -> Tensor:
        return similarity - 0.4


def batch_of(lips: list[float], sound: list[float]) -> Any:
    frames = torch.tensor(lips).float()[:, None, None, None, None].expand(-1, 4, 3, 8, 8)
    return {"frames": frames, "mel": torch.tensor(sound).float()[:, None, None, None].expand(-1, 1, 80, 13)}


@pytest.mark.parametrize(
    ("sound", "accuracy", "auc"), [([0.0, 1, 2, 3], 1.0, 1.0), ([0.0, 0, 0, 0], 0.5, 0.5), ([1.0, 2, 3, 0], 0.0, 0.0)]
)
def test_own_and_foreign_sound_are_told_apart_by_who_knows_in_any_batch_size(sound, accuracy: float, auc: float):
    lips = [0.0, 1.0, 2.0, 3.0]
    for size in (4, 2):
        batches = [batch_of(lips[first : first + size], sound[first : first + size]) for first in range(0, 4, size)]
        found = pair_accuracy(Known(), batches)  # pyright: ignore[reportArgumentType]
        assert found == {"syncnet_accuracy": accuracy, "syncnet_auc": auc}
