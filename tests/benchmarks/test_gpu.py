"""The benchmark for GPUs works before there is one: its phases run small, on the CPU."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
gpu: Any = importlib.import_module("gpu")

TINY = [
    *("clip.resolution=32", "clip.num_frames=2", "data.batch_size=1", "module.num_inference_steps=1"),
    *("module.unet.block_out_channels=[8,8,8,8]", "module.unet.norm_num_groups=4", "module.unet.num_attention_heads=2"),
]


def test_every_phase_has_a_limit_and_composes():
    assert set(gpu.STEPS) | {"generate", "generate_512", "encode"} == set(gpu.LIMITS_S)
    for overrides in gpu.STEPS.values():
        gpu.composed(overrides)


@pytest.mark.parametrize("phase", ["step", "generate"])
def test_a_phase_measures_what_it_says(phase, monkeypatch):
    seconds = gpu.seconds
    monkeypatch.setattr(gpu, "seconds", lambda work, device, *_: seconds(work, device, 0, 1))
    row = getattr(gpu, phase)(gpu.composed(["+experiment=stage1", *TINY]), "cpu")
    assert all(value > 0 for value in row.values())
    assert {"step": "seconds", "generate": "fps_4_windows"}[phase] in row
