from pathlib import Path

import pytest

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.evaluation.training_run import first_middle_last, is_training_run, read_training_run

LOG = "step,train/loss\n0,3\n"


@pytest.mark.parametrize("file", ["metrics.csv", "metrics.000.csv", "config.yaml"])
def test_a_folder_with_a_log_or_a_configuration_of_its_own_is_one_training_run(tmp_path: Path, file: str):
    assert not is_training_run(tmp_path)
    (tmp_path / file).write_text("")
    assert is_training_run(tmp_path)


@pytest.mark.parametrize("file", ["metrics.json", "steps.json"])
def test_a_folder_of_several_runs_is_not(tmp_path: Path, file: str):
    (tmp_path / file).write_text("{}")
    (tmp_path / "stage1").mkdir()
    (tmp_path / "stage1" / "metrics.csv").write_text(LOG)
    assert not is_training_run(tmp_path)
    (tmp_path / "metrics.csv").write_text(LOG)
    assert not is_training_run(tmp_path)


def test_a_run_that_has_only_begun_is_empty(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("name: stage1\n")
    run = read_training_run(tmp_path)
    assert (run.log, run.num_parts, run.samples, run.histograms, run.config) == ({}, 0, {}, (), "name: stage1\n")


def test_samples_and_histograms_come_by_step(tmp_path: Path):
    (tmp_path / "samples").mkdir()
    header = "step,number,id,strip,video,sync_real,sync_generated,sync_control,psnr_mouth\n"
    (tmp_path / "samples" / "samples.csv").write_text(header + "20,0,a,s,v,,,,21.5\n10,0,a,s,v,0.9,0.5,0.1,inf\n")
    (tmp_path / "similarities.csv").write_text("step,kind,-0.05,0.00\n10,matching,1,2\n10,foreign,3,0\n")
    run = read_training_run(tmp_path)
    assert list(run.samples) == [10, 20]
    assert run.samples[20][0]["sync_real"] is None
    assert run.samples[10][0]["sync_generated"] == 0.5
    (histogram,) = run.histograms
    assert histogram.centres.tolist() == [-0.05, 0.0]
    assert {kind: counts.tolist() for kind, counts in histogram.counts.items()} == {
        "matching": [1, 2],
        "foreign": [3, 0],
    }


@pytest.mark.parametrize("file", ["samples/samples.csv", "similarities.csv"])
@pytest.mark.parametrize(
    "content", ["a,b\n1,2\n", "step,kind,number,0.00\nten,matching,0,1\n", "step,kind,number,0.00\n10\n"]
)
def test_a_broken_table_is_named(tmp_path: Path, file: str, content: str):
    (tmp_path / "samples").mkdir()
    (tmp_path / file).write_text(content)
    with pytest.raises(BadMedia, match=rf"{file} is not a table of"):
        read_training_run(tmp_path)


def test_first_middle_and_last_are_each_taken_once():
    assert [first_middle_last(range(count)) for count in (0, 1, 2, 3, 6)] == [[], [0], [0, 1], [0, 1, 2], [0, 2, 5]]
