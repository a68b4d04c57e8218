from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lipsync_lightning.evaluation.sync import offset_and_confidence
from oracle import uniform

FIXTURE = Path(__file__).parents[1] / "fixtures" / "av_sync.safetensors"
REFERENCE = {  # what the evaluation SyncNet's public code says of the fixture
    "offset0": (0, 0.9787424802780151, 3.475274085998535),
    "shift_plus3": (3, 1.1702054738998413, 3.269526958465576),
    "shift_minus4": (-4, 1.2208950519561768, 3.1875035762786865),
}


def embeddings(name: str, num_windows: int = 60, width: int = 16) -> Tensor:
    return torch.from_numpy(uniform(name, (num_windows, width))).float()


@pytest.mark.parametrize("case", REFERENCE)
def test_it_says_what_the_evaluation_syncnet_says(case: str):
    fixture = load_file(FIXTURE)
    offset, distance, confidence = REFERENCE[case]
    found = offset_and_confidence(fixture["vision"], fixture[f"{case}.audio"])
    assert found.offset == offset
    assert found.distance == pytest.approx(distance, abs=1e-5)
    assert found.confidence == pytest.approx(confidence, abs=1e-5)


@pytest.mark.parametrize("shift", [-15, -4, 0, 1, 15])
def test_sound_that_comes_k_windows_early_has_the_offset_k(shift: int):
    vision = embeddings("lips")
    assert offset_and_confidence(vision, vision.roll(-shift, dims=0)).offset == shift


def test_shifting_the_sound_by_k_more_moves_the_offset_by_k():
    vision, audio = embeddings("lips"), embeddings("lips").roll(2, dims=0) + 0.1 * embeddings("noise")
    offsets = [offset_and_confidence(vision, audio.roll(-k, dims=0)).offset for k in range(5)]
    assert offsets == [-2, -1, 0, 1, 2]


def test_confidence_is_higher_for_own_than_for_foreign_sound():
    vision, foreign = embeddings("lips"), embeddings("somebody else")
    assert offset_and_confidence(vision, vision).confidence > 3 * offset_and_confidence(vision, foreign).confidence


def test_identical_embeddings_are_at_no_distance():
    assert offset_and_confidence(embeddings("lips"), embeddings("lips")).distance == pytest.approx(0, abs=1e-5)


def test_a_clip_shorter_than_the_largest_shift_can_be_scored():
    vision = embeddings("lips", num_windows=4)
    assert offset_and_confidence(vision, vision.roll(-1, dims=0), max_shift=3).offset == 1


def test_lips_and_sound_of_different_length_are_refused():
    with pytest.raises(ValueError, match=r"same windows.*\(60, 16\).*\(59, 16\)"):
        offset_and_confidence(embeddings("lips"), embeddings("lips")[1:])
