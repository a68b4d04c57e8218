import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.evaluation.quality import HyperIQAScorer
from lipsync_lightning.models.hyperiqa import HyperIQA
from oracle import fill_state_dict, uniform

EXPECTED = load_file(Path(__file__).parents[1] / "fixtures" / "hyperiqa.safetensors")


class Marks(nn.Module):
    """Scores an image by its first pixel's red level, 0 to 255."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[1:] == (3, 224, 224)
        return images[:, 0, 0, 0] * 255


class MarkScorer(HyperIQAScorer):
    def load(self) -> nn.Module:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Marks()


def reference_frames() -> np.ndarray:
    """(3, 256, 256, 3), uint8: the frames whose middle the reference network judged."""
    coarse = uniform("iqa_coarse", (3, 8, 8, 3)).repeat(32, axis=1).repeat(32, axis=2)
    coarse_strength, fine_strength = (np.array(values)[:, None, None, None] for values in ([96, 48, 16], [8, 64, 24]))
    return (
        np.floor(128 + coarse_strength * coarse + fine_strength * uniform("iqa_fine", (3, 256, 256, 3)))
        .clip(0, 255)
        .astype(np.uint8)
    )


def test_the_score_is_the_mean_of_the_reference_networks(tmp_path: Path):
    network = HyperIQA()
    torch.save(fill_state_dict(network.state_dict()), tmp_path / "koniq_pretrained.pkl")
    scorer = HyperIQAScorer(path=str(tmp_path / "koniq_pretrained.pkl"), device="cpu")
    assert re.fullmatch("hyperiqa:[0-9a-f]{16}", scorer.version)
    assert scorer(reference_frames()) == pytest.approx(float(EXPECTED["scores"].mean()), rel=1e-5)


@pytest.mark.parametrize(("num_frames", "chosen"), [(1, [0, 0, 0]), (2, [0, 1, 1]), (5, [0, 2, 4]), (10, [0, 5, 9])])
def test_the_middle_of_first_middle_and_last_frame_is_scored_unresized(num_frames: int, chosen: list[int]):
    faces = np.zeros((num_frames, 256, 256, 3), np.uint8)
    faces[:, 16, 16] = np.arange(num_frames)[:, None]
    assert MarkScorer(path="none", device="cpu")(faces) == pytest.approx(np.mean(chosen), abs=1e-5)


def test_faces_too_small_are_refused_with_the_way_out():
    with pytest.raises(BadConfig, match=r"224x224 pixels of a face, got faces of 64 pixels; prepare with clip=256px"):
        MarkScorer(path="none", device="cpu")(np.zeros((3, 64, 64, 3), np.uint8))
