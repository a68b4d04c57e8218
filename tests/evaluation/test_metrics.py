import pytest

from lipsync_lightning.evaluation.metrics import METRICS, REAL, comparison, metric


def test_logged_names_are_known_with_their_prefix_and_unknown_ones_by_themselves():
    assert metric("val/auc") is METRICS["auc"]
    assert metric("vitals/mfu").title == "MFU ↑"
    assert metric("lr-AdamW/pg1").panel == "Learning rate"
    assert (metric("val/never_seen").label, metric("val/never_seen").better) == ("val/never_seen", None)


def test_a_term_s_training_and_held_out_values_share_a_panel():
    training, heldout = metric("train/loss_sync"), metric("val/loss_sync")
    assert training.panel == heldout.panel == "Loss term sync"
    assert (training.label, heldout.label) == ("Loss term sync, training", "Loss term sync, held out")


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("psnr", 21.26, "21.3 dB"),
        ("psnr", float("inf"), "∞ dB"),
        ("sync_offset", -2, "−2.0 frames"),
        ("lpips", 0.12345, "0.123"),
        ("lpips", None, ""),
    ],
)
def test_values_are_shown_with_their_digits_and_unit(name: str, value: float | None, shown: str):
    assert metric(name).shown(value) == shown


def test_the_best_rival_is_marked_each_metric_its_own_way_and_what_looks_the_same_too():
    figures = {
        REAL: {"sync_confidence": 9.0},
        "a": {"sync_confidence": 2.0, "lpips": 0.2, "psnr": 20.01, "sync_offset": 1},
        "b": {"sync_confidence": 3.0, "lpips": 0.1, "psnr": 20.02},
        "c": {"sync_confidence": 1.0, "lpips": 0.3},
    }
    table = comparison(figures)
    assert table.columns == ["metric", REAL, "a", "b", "c"]
    assert [row[0] for row in table.rows] == [
        "Sync confidence ↑",
        "Sound offset",
        "PSNR of the mouth ↑",
        "LPIPS of the mouth ↓",
    ]
    assert table.rows[1] == ["Sound offset", "", "1.0 frames", "", ""]
    assert set(table.marks) == {(0, 3), (2, 2), (2, 3), (3, 3)}
    assert not comparison({"a": figures["a"]}).marks


def test_bars_are_for_the_last_system_that_has_the_metric():
    figures = {REAL: {"syncnet_accuracy": 0.9}, "a": {"psnr": 30.0}, "b": {"psnr": 20.0, "lpips": 0.1}}
    table = comparison(figures, {"syncnet_accuracy": 0.95, "psnr": 20, "lpips": 0.2, "ssim": 0.5})
    assert [row[-1] for row in table.rows] == [
        "≥ 20.0 dB reached",
        "≥ 0.500 missed",
        "≤ 0.200 reached",
        "≥ 0.950 missed",
    ]
    assert [table.marks[row, 4] for row in range(4)] == ["reached", "missed", "reached", "missed"]
