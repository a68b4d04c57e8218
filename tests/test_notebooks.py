"""Notebooks run from their first cell to their last, on what a demo of a few steps leaves."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from hydra.core.global_hydra import GlobalHydra

from lipsync_lightning.export import main as export
from lipsync_lightning.prepare import main as prepare
from lipsync_lightning.synthesize import main as synthesize
from lipsync_lightning.train import main as train

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def run(main: Callable[[], None], *arguments: str) -> None:
    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["command", *arguments])
        main()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make demo` leaves, of two people and one step a network."""
    folder = tmp_path_factory.mktemp("demo")
    quick = [f"demo_dir={folder}", "logger=none", "data.num_workers=0", "data.batch_size=2"]
    quick += ["trainer.limit_val_batches=0", "+trainer.enable_progress_bar=false"]
    learning = ["trainer.max_steps=1", "trainer.val_check_interval=1", "module.schedule.num_warmup_steps=0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        people = ["people.train=2", "people.heldout=2", "clips_per_person=1", "seconds=2.5", "num_workers=1"]
        run(synthesize, "out=raw", *people)
        run(prepare, "recipe=synthetic", "recipe.source=raw", "clip=demo_64px", "out=shards", "executor.num_workers=0")
        run(train, "+experiment=demo/autoencoder", *quick)
        for stage in ("decoder", "syncnet", "stage1"):
            run(train, f"+experiment=demo/{stage}", *quick, *learning)
        run(export, "run=stage1", "out=export", "num_inference_steps=1")
    return folder


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_its_first_cell_to_its_last(path: Path, demo: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LIPSYNC_DEMO", str(demo))
    mpl.use("agg")
    GlobalHydra.instance().clear()
    names: dict[str, Any] = {}
    for number, cell in enumerate(cells(path)):
        exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_without_a_demo_a_notebook_says_what_to_run_and_it_is_kept_without_outputs(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("LIPSYNC_DEMO", str(tmp_path))
    with pytest.raises(SystemExit, match="make demo"):
        exec("".join(cells(path)[0]["source"]), {})
    assert [cell["outputs"] for cell in cells(path) if cell["outputs"] or cell["execution_count"]] == []
