import re
from pathlib import Path

import numpy as np
import pytest

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.evaluation.curves import drawn_log, log_files, whole_log

CSV_LOG = """epoch,step,train/loss,train/loss_noise,val/accuracy,val/loss
0,0,3.0,1.0,,
0,10,2.0,0.5,,
0,10,,,0.75,2.5
1,20,1.0,0.4,,
1,20,,,0.9,1.5
"""


def test_sparse_rows_of_the_csv_belong_to_the_column_that_has_a_value(tmp_path: Path):
    (tmp_path / "metrics.csv").write_text(CSV_LOG)
    log = whole_log(tmp_path)
    assert [each.tolist() for each in log["val/accuracy"]] == [[10, 20], [0.75, 0.9]]
    assert [each.tolist() for each in log["train/loss"]] == [[0, 10, 20], [3, 2, 1]]
    assert "epoch" not in log


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path):
    (tmp_path / "metrics.csv").write_text("step,train/loss\r\n0,3\r\n1,2")
    assert whole_log(tmp_path)["train/loss"][1].tolist() == [3]
    (tmp_path / "metrics.csv").write_text("")
    assert whole_log(tmp_path) == {}


def test_the_parts_of_a_resumed_log_are_one_and_steps_done_again_are_those_of_the_later_part(tmp_path: Path):
    (tmp_path / "metrics.000.csv").write_text("step,train/loss,val/loss\n0,3,\n1,2,9\n2,7,8\n")
    assert whole_log(tmp_path)["train/loss"][1].tolist() == [3, 2, 7]
    (tmp_path / "metrics.csv").write_text("step,train/loss\n2,1\n3,0\n")
    assert [path.name for path in log_files(tmp_path)] == ["metrics.000.csv", "metrics.csv"]
    log = whole_log(tmp_path)
    assert [each.tolist() for each in log["train/loss"]] == [[0, 1, 2, 3], [3, 2, 1, 0]]
    assert [each.tolist() for each in log["val/loss"]] == [[1], [9]]


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
