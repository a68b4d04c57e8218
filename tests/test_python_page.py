"""docs/python.md runs, block after block, and goes on where it stopped."""

import re
from pathlib import Path
from typing import Any

import pytest

from lipsync_lightning.modules.weights import newest_checkpoint
from train_process import small_shards

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
LONGEST = 40  # lines of a block, those of imports left out


def run(names: dict[str, Any], max_steps: int) -> None:
    for number, block in enumerate(BLOCKS):
        text = block.replace("max_steps=20", f"max_steps={max_steps}")
        exec(compile(text, f"python.md, block {number}", "exec"), names)


def test_both_trainings_are_short():
    lines = [[line for line in block.splitlines() if line and "import" not in line] for block in BLOCKS]
    assert max(len(each) for each in lines) < LONGEST


@pytest.mark.filterwarnings("ignore")
def test_the_blocks_run_and_go_on_with_more_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    small_shards(tmp_path / "runs" / "demo")
    for max_steps in (1, 2):
        run({}, max_steps)
        for name in ("syncnet", "stage1"):
            newest = newest_checkpoint(tmp_path / "runs" / "python" / name)
            assert newest
            assert newest.stem == f"step_{max_steps:08d}"
