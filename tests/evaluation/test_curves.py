import re
from pathlib import Path

import numpy as np
import pytest

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.evaluation.curves import drawn_log, log_files, whole_log


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path):
    (tmp_path / "metrics.csv").write_text("step,train/loss\r\n0,3\r\n1,2")
    assert whole_log(tmp_path)["train/loss"][1].tolist() == [3]
    (tmp_path / "metrics.csv").write_text("")
    assert whole_log(tmp_path) == {}


def test_the_parts_of_a_resumed_log_are_one_and_steps_done_again_are_those_of_the_later_part(tmp_path: Path):
    (tmp_path / "metrics.000.csv").write_text("epoch,step,train/loss,val/loss\n0,0,3,\n0,1,2,\n0,1,,9\n1,2,7,8\n")
    (tmp_path / "metrics.csv").write_text("step,train/loss\n2,1\n3,0\n")
    assert [path.name for path in log_files(tmp_path)] == ["metrics.000.csv", "metrics.csv"]
    log = {name: series.tolist() for name, series in whole_log(tmp_path).items()}
    assert log == {"train/loss": [[0, 1, 2, 3], [3, 2, 1, 0]], "val/loss": [[1], [9]]}


@pytest.mark.parametrize("content", ["epoch,train/loss\n0,1\n", "step,train/loss\n0,1\n1,lo\n"])
def test_what_is_no_log_is_named(tmp_path: Path, content: str):
    (tmp_path / "metrics.csv").write_text(content)
    with pytest.raises(BadMedia, match=r"metrics\.csv is not a log of numbers by step"):
        whole_log(tmp_path)


def test_every_logged_name_is_drawn_once_and_what_is_to_be_watched_comes_first():
    names = (
        *("lr-AdamW/pg1", "lr-AdamW/pg2", "train/loss", "val/loss", "train/loss_sync", "val/loss_sync"),
        *("val/accuracy", "val/auc", "vitals/mfu", "something/else"),
    )
    log = {name: (np.arange(3.0), np.arange(3.0)) for name in names}
    watched, others = drawn_log(log, "stage1")
    titles = [re.findall('aria-label="([^"]*)"', curve.svg)[0] for curve in (*watched, *others)]
    first = ("Loss", "Own sound told from foreign")
    assert titles == [f"stage1: {title}" for title in (*first, "Loss term sync", "MFU", "Learning rate", names[-1])]
    assert len(watched) == len(first)
    assert "chance" in watched[1].svg
    ids = re.findall(r'\bid="([^"]*)"', "".join(curve.svg for curve in (*watched, *others)))
    assert len(ids) == len(set(ids)) > 50
