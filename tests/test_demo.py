import json
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from lipsync_lightning import demo

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
        demo.main.__wrapped__(OmegaConf.create({"out": str(tmp_path / "out"), "steps": arguments, "leaves": leaves}))
        return log.read_text().split()

    return run_demo


def recorded(tmp_path: Path) -> list[str]:
    return [step["step"] for step in json.loads((tmp_path / "out" / "steps.json").read_text())]


def test_steps_run_in_order_and_are_recorded_with_their_commands(
    run: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    assert run(a="x y", b="1") == ["a", "b"]
    steps = json.loads((tmp_path / "out" / "steps.json").read_text())
    assert [step["step"] for step in steps] == ["a", "b"]
    assert all(step["seconds"] > 0 and 1 < step["peak_memory_mb"] < 10_000 for step in steps)
    shown = capfd.readouterr().out
    assert f"[a] python -m fake_step_of_a_demo {tmp_path / 'log'} a 'x y'" in shown
    assert "[b] python -m" in shown


def test_finished_steps_are_not_run_again(run: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    run(a="1", b="1")
    assert run(a="1", b="1", c="1") == ["c"]
    assert recorded(tmp_path) == ["a", "b", "c"]
    assert "[a] already done" in capfd.readouterr().out


def test_after_a_failure_it_goes_on_with_the_failed_step(run: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    (tmp_path / "fail_b").touch()
    with pytest.raises(SystemExit) as caught:
        run(a="1", b="1", c="1")
    assert caught.value.code == 3
    assert "error: step b failed" in capfd.readouterr().err
    assert recorded(tmp_path) == ["a"]
    (tmp_path / "fail_b").unlink()
    assert run(a="1", b="1", c="1") == ["b", "c"]


def test_a_new_step_is_run_and_so_is_what_follows_it(run: Any, tmp_path: Path):
    run(a="1", c="1")
    assert run(a="1", b="1", c="1") == ["b", "c"]
    assert recorded(tmp_path) == ["a", "b", "c"]


def test_a_changed_step_is_refused_because_training_would_not_notice(
    run: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    run(a="1", b="1")
    capfd.readouterr()
    with pytest.raises(SystemExit):
        run(a="1", b="2")
    assert "whose step b was another" in capfd.readouterr().err
    assert recorded(tmp_path) == ["a", "b"]


def test_the_same_python_runs_the_steps(run: Any, tmp_path: Path):
    (tmp_path / "fake_step_of_a_demo.py").write_text("import sys; open(sys.argv[1], 'w').write(sys.executable)")
    assert run(a="1") == [sys.executable]


def test_a_step_that_was_stopped_in_good_order_is_not_taken_for_done(
    run: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as caught:
        run(a="1", stopped="1", b="1")
    assert caught.value.code == 1
    assert "step stopped was stopped before it left" in capfd.readouterr().err
    assert recorded(tmp_path) == ["a"]
    (tmp_path / "network").mkdir()
    assert run(a="1", stopped="1", b="1") == ["stopped", "b"]
