import json

import pytest

from lipsync_lightning.claims_tmp.claims import (
    Expectation,
    Run,
    expectations_table,
    first_step_at,
    read_run,
    steps_table,
    table,
    verdict,
    with_spread,
)
from lipsync_lightning.errors import BadConfig, MissingWeights


def runs(*values: float, figure: str = "psnr") -> list[Run]:
    return [Run(scores={figure: value}, curves={}) for value in values]


SAYS = Expectation(says="a above b", figure="psnr", more="a", less="b")


@pytest.mark.parametrize(
    ("a", "b", "word"),
    [
        ((3, 4, 5), (2, 3, 4), "seen"),
        ((1, 2, 3), (2, 3, 4), "opposite"),
        ((3, 2, 5), (2, 3, 4), "not seen"),
        ((2,), (2,), "not seen"),
    ],
)
def test_a_claim_is_seen_only_if_every_seed_shows_it(a, b, word):
    assert verdict(SAYS, {"a": runs(*a), "b": runs(*b)})[0] == word


def test_seeds_are_compared_one_by_one_and_their_differences_are_shown():
    (row,) = expectations_table([SAYS], {"a": runs(3, 5), "b": runs(2, 6)})[2:]
    assert row == "| a above b | **not seen** | +1.000, −1.000 (PSNR of the mouth (dB)) |"


def test_a_run_that_was_resumed_is_read_from_its_beginning(tmp_path):
    (tmp_path / "metrics.000.csv").write_text("step,val/auc\n49,0.6\n99,0.7\n")
    (tmp_path / "metrics.csv").write_text("step,val/auc\n99,0.8\n149,0.9\n")
    assert read_run(tmp_path, "scores.json").curves == {"val/auc": [(49, 0.6), (99, 0.8), (149, 0.9)]}


def test_what_nobody_measured_is_told_by_name():
    with pytest.raises(BadConfig, match=r"expects something of psnr of b, which nobody measured; there are \['ssim'\]"):
        verdict(SAYS, {"a": runs(1), "b": runs(1, figure="ssim")})
    with pytest.raises(BadConfig, match=r"there are \['a'\]"):
        verdict(SAYS, {"a": runs(1)})
    with pytest.raises(BadConfig, match="b logged no val/psnr_mouth"):
        steps_table({"b": "b"}, ["val/psnr_mouth"], {"b": runs(1)})


def test_a_missing_seed_is_no_comparison():
    with pytest.raises(ValueError, match="shorter"):
        verdict(SAYS, {"a": runs(3, 5), "b": runs(2)})


def test_the_spread_is_that_of_a_sample():
    assert with_spread([1.0, 2.0, 3.0]) == "2.000 ± 1.000"
    assert with_spread([-1.5]) == "−1.500"


def test_a_table_has_a_row_for_every_label_and_a_dash_where_nothing_was_measured():
    lines = table({"first": "a", "second": "b"}, ["psnr", "ssim"], {"a": runs(1, 3), "b": runs(2, 2)})
    assert lines[0] == "| | PSNR of the mouth (dB) | SSIM of the mouth |"
    assert lines[2:] == ["| first | 2.000 ± 1.414 | – |", "| second | 2.000 ± 0.000 | – |"]


def test_the_steps_to_a_level_are_those_of_the_first_validation_that_is_there():
    curve = [(99, 0.2), (199, 0.5), (299, 0.4)]
    assert first_step_at(curve, 0.5) == 199
    assert first_step_at(curve, 0.6) is None


def test_the_level_of_a_race_is_one_that_every_run_reaches():
    fast = Run(scores={}, curves={"val/psnr_mouth": [(99, 20.0), (199, 22.0)]})
    slow = Run(scores={}, curves={"val/psnr_mouth": [(99, 15.0), (199, 19.0)]})
    lines = steps_table({"fast": "a", "slow": "b"}, ["val/psnr_mouth"], {"a": [fast], "b": [slow]})
    assert lines[2:] == ["| fast | 100 |", "| slow | 200 |", "| *level* | 19.000 |"]


def test_a_run_is_its_last_validation_and_what_the_judge_said(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,train/loss,val/auc\n0,1.0,\n49,,0.6\n99,,0.9\n")
    (tmp_path / "scores.json").write_text(json.dumps({"psnr": 21.0, "rows": [{"psnr": 21.0}]}))
    run = read_run(tmp_path, "scores.json")
    assert run.scores == {"val/auc": 0.9, "psnr": 21.0}
    assert run.curves == {"val/auc": [(49, 0.6), (99, 0.9)]}


def test_a_run_that_left_nothing_is_missing_and_not_zero(tmp_path):
    with pytest.raises(MissingWeights, match="trains what is missing"):
        read_run(tmp_path, "scores.json")
