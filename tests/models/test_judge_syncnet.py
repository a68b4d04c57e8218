from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lipsync_lightning.models.judge_syncnet import JudgeSyncNet
from lipsync_lightning.models.latentsync import judge_syncnet_from_reference
from lipsync_lightning.models.weights_io import frozen
from oracle import fill_state_dict, uniform

EXPECTED = load_file(Path(__file__).parents[1] / "fixtures" / "judge_syncnet.safetensors")
# The stored lips are float32 too, and lie 1.9e-4 (embeddings, up to 103) from this network's in float64, this network's
# own 7e-5. Features reach 178.
FEATURE_TOLERANCE, LIPS_TOLERANCE, SOUND_TOLERANCE = 1e-3, 5e-4, 5e-5


@pytest.fixture(scope="module")
def network() -> JudgeSyncNet:
    return frozen(judge_syncnet_from_reference(fill_state_dict(JudgeSyncNet().state_dict())))


def lips() -> Tensor:
    values = torch.from_numpy(uniform("lips", (1, 3, 5, 224, 224))).float()  # the reference's, rounded before the floor
    return torch.floor((values + 1) * 127.5)


def sound() -> Tensor:
    return torch.from_numpy(20 * uniform("mfcc", (4, 1, 13, 20))).float()


def assert_within(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def test_embeddings_are_those_of_the_reference_network(network):
    assert_within(network.forward_aud(sound()), EXPECTED["forward_aud"], SOUND_TOLERANCE)
    assert_within(network.forward_lip(lips()), EXPECTED["forward_lip"], LIPS_TOLERANCE)
    assert_within(network.forward_lipfeat(lips()), EXPECTED["forward_lipfeat"], FEATURE_TOLERANCE)
