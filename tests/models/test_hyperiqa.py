from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange, repeat
from safetensors.torch import load_file
from torch import Tensor
from torchvision.transforms.functional import normalize

from lipsync_lightning.models.hyperiqa import HyperIQA
from lipsync_lightning.models.latentsync import hyperiqa_from_reference
from lipsync_lightning.models.weights_io import frozen
from oracle import fill_state_dict, uniform

EXPECTED = load_file(Path(__file__).parents[1] / "fixtures" / "hyperiqa.safetensors")


@pytest.fixture(scope="module")
def network() -> HyperIQA:
    return frozen(hyperiqa_from_reference(fill_state_dict(HyperIQA().state_dict())))


@cache
def images() -> Tensor:
    """The middle of three uint8 frames: coarse patches and noise, of another strength in each, in [0, 1]."""
    coarse = repeat(uniform("iqa_coarse", (3, 8, 8, 3)), "b h w c -> b (h h2) (w w2) c", h2=32, w2=32)
    strengths = (rearrange(np.array(values), "b -> b 1 1 1") for values in ([96, 48, 16], [8, 64, 24]))
    coarse_strength, fine_strength = strengths
    levels = np.floor(128 + coarse_strength * coarse + fine_strength * uniform("iqa_fine", (3, 256, 256, 3)))
    return torch.from_numpy(rearrange(levels.clip(0, 255)[:, 16:240, 16:240], "b h w c -> b c h w")).float() / 255


def assert_within(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_distortions_are_those_of_the_reference_backbone(network):
    normalised = torch.from_numpy(np.sqrt(3) * uniform("iqa_images", (2, 3, 224, 224))).float()
    distortions, content = network.res(normalised)
    assert content.shape == (2, 2048, 7, 7)
    assert_within(distortions, EXPECTED["distortions_normalised"])


def test_the_layers_made_for_each_image_are_those_of_the_reference_network(network):
    distortions, content = network.res(normalize(images(), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    assert_within(distortions, EXPECTED["distortions"])
    layers = network.target_layers(content)
    assert [tuple(weight.shape[1:]) for weight, _ in layers] == [(112, 224), (56, 112), (28, 56), (14, 28), (1, 14)]
    for number, (weight, bias) in enumerate(layers, start=1):
        assert_within(bias, EXPECTED[f"bias{number}"])
        if number in (4, 5):
            assert_within(weight, EXPECTED[f"weight{number}"])


def test_scores_are_those_of_the_reference_network_for_an_image_alone_as_well(network):
    for num_images in (3, 1):
        scores = network(images()[:num_images])
        torch.testing.assert_close(scores, EXPECTED["scores"][:num_images], rtol=1e-5, atol=0)
