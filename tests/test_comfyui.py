"""The node, used as ComfyUI uses it."""

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[1] / "integrations" / "comfyui"


@pytest.fixture(scope="module")
def node_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("comfyui_node", FOLDER / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def spoken(module: ModuleType, patch: pytest.MonkeyPatch, **given: Any) -> tuple[Any, dict[str, Any]]:
    """Return what the node gives for pictures and sound, and how it called the pipeline, which darkens them."""
    called: dict[str, Any] = {}

    def pipeline(video: np.ndarray, audio: np.ndarray, **options: Any) -> Any:
        called.update(options, video=video, audio=audio)
        assert options["callback_on_step_end"](None, 0, 0, {"latents": 1}) == {"latents": 1}
        return SimpleNamespace(frames=(video * 127.5).astype(np.uint8))

    patch.setattr(module, "placed_pipeline", lambda folder: called.update(folder=folder) or pipeline)
    (node,) = module.NODE_CLASS_MAPPINGS.values()
    defaults = {name: more[0]["default"] for name, (_, *more) in node.INPUT_TYPES()["required"].items() if more}
    return getattr(node(), node.FUNCTION)(**defaults, **given), called


def test_pictures_and_sound_go_in_and_come_out_as_comfyui_has_them(node_module, monkeypatch: pytest.MonkeyPatch):
    images, waveform = torch.rand(5, 48, 64, 3), torch.randn(1, 2, 44100)
    audio = {"waveform": waveform, "sample_rate": 44100}
    (pictures, heard), called = spoken(node_module, monkeypatch, images=images, audio=audio)
    assert (pictures.shape, pictures.dtype) == (images.shape, torch.float32)
    torch.testing.assert_close(pictures, images / 2, atol=1 / 255, rtol=0)
    assert heard is audio
    np.testing.assert_allclose(called["audio"], waveform[0].mean(0))
    assert (called["sample_rate"], called["fps"], called["face"]) == (44100, 25.0, "largest")
    assert (called["num_inference_steps"], called["guidance_scale"]) == (None, None)


def test_the_node_says_of_each_input_what_it_is(node_module):
    assert node_module.NODE_CLASS_MAPPINGS.keys() == node_module.NODE_DISPLAY_NAME_MAPPINGS.keys()
    (node,) = node_module.NODE_CLASS_MAPPINGS.values()
    kinds = {name: kind for name, (kind, *_) in node.INPUT_TYPES()["required"].items()}
    assert {"images": "IMAGE", "audio": "AUDIO", "model": "STRING"}.items() <= kinds.items()
    assert node.RETURN_TYPES == ("IMAGE", "AUDIO")
