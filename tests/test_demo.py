import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from lipsync_lightning.commands import demo
from lipsync_lightning.errors import StepFailed, WouldOverwrite

STEP = """
import pathlib, sys
log, name, *options = sys.argv[1:]
with open(log, "a") as file:
    file.write(name + "\\n")
sys.exit(3 if pathlib.Path(log).with_name("fail_" + name).exists() else 0)
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that runs the demo with fake steps `name=options` and returns the steps that really ran."""
    (tmp_path / "fake_step_of_a_demo.py").write_text(STEP)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    log = tmp_path / "log"

    def run_demo(**steps: str) -> list[str]:
        log.write_text("")
        arguments = {name: ["fake_step_of_a_demo", str(log), name, option] for name, option in steps.items()}
        leaves = {"stopped": str(tmp_path / "network")}
        demo.run(OmegaConf.create({"out": str(tmp_path / "out"), "steps": arguments, "leaves": leaves}))
        return log.read_text().split()

    return run_demo


def recorded(tmp_path: Path) -> list[str]:
    return [step["step"] for step in json.loads((tmp_path / "out" / "steps.json").read_text())]


def test_steps_run_in_order_and_are_recorded_with_their_commands(run: Any, tmp_path: Path, capfd):
    assert run(a="x y", b="1") == ["a", "b"]
    steps = json.loads((tmp_path / "out" / "steps.json").read_text())
    assert [step["step"] for step in steps] == ["a", "b"]
    assert all(step["seconds"] > 0 and 1 < step["peak_memory_mb"] < 10_000 for step in steps)
    assert f"[a] python -m fake_step_of_a_demo {tmp_path / 'log'} a 'x y'" in capfd.readouterr().out


def test_finished_steps_are_not_run_again_but_new_ones_and_what_follows_them_are(run: Any, tmp_path: Path):
    run(a="1", c="1")
    assert run(a="1", c="1", d="1") == ["d"]
    assert run(a="1", b="1", c="1", d="1") == ["b", "c", "d"]
    assert recorded(tmp_path) == ["a", "b", "c", "d"]


def test_after_a_failure_it_goes_on_with_the_failed_step(run: Any, tmp_path: Path):
    (tmp_path / "fail_b").touch()
    with pytest.raises(StepFailed, match="step b failed with status 3"):
        run(a="1", b="1", c="1")
    assert recorded(tmp_path) == ["a"]
    (tmp_path / "fail_b").unlink()
    assert run(a="1", b="1", c="1") == ["b", "c"]


def test_a_changed_step_is_refused_because_training_would_not_notice(run: Any, tmp_path: Path):
    run(a="1", b="1")
    with pytest.raises(WouldOverwrite, match="whose step b was another"):
        run(a="1", b="2")
    assert recorded(tmp_path) == ["a", "b"]


def test_a_training_that_a_signal_stopped_is_not_taken_for_done(run: Any, tmp_path: Path):
    with pytest.raises(StepFailed, match="step stopped was stopped before"):
        run(a="1", stopped="1", b="1")
    assert recorded(tmp_path) == ["a"]
    (tmp_path / "network").mkdir()
    assert run(a="1", stopped="1", b="1") == ["stopped", "b"]
