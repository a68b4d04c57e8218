"""Full size fits: what each published experiment needs of a GPU's memory, counted on fake tensors, has a ceiling."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from lipsync_lightning.files import CONF_DIR

CEILINGS_GIB = {
    **{("syncnet", 256): 29, ("stage1", 24): 40, ("stage1_512", 8): 48, ("stage1_latents", 24): 40},
    **{("stage2", 1): 18, ("stage2", 4): 26, ("stage2_512", 1): 24, ("stage2_efficient", 1): 12},
}


sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
full_size: Any = importlib.import_module("full_size")


@pytest.mark.parametrize(("experiment", "batch_size"), CEILINGS_GIB)
def test_a_training_step_of_full_size_fits(experiment: str, batch_size: int):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        config = compose("train", overrides=[f"+experiment={experiment}", f"data.batch_size={batch_size}"])
        (row,) = full_size.measured(config, ("step",))
    assert row["total_gib"] <= CEILINGS_GIB[experiment, batch_size]
    assert row["peak_gib"] > 1
    assert row["tflop"] > 10
