import base64
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from lipsync_lightning.callbacks.samples import put_rows
from lipsync_lightning.evaluation.training_page import render_training
from lipsync_lightning.evaluation.training_run import read_training_run
from lipsync_lightning.media.strips import film_strip, save_png, strip_rows

COLUMNS = (
    *("lr-AdamW", "train/loss", "train/loss_noise", "train/gradient_norm", "train/skipped_steps"),
    *(
        "val/loss",
        "val/sync_generated",
        "val/psnr_mouth",
        "val/similarity_matching_mean",
        "val/similarity_matching_std",
    ),
    *("vitals/windows_per_second", "vitals/mfu", "something/else"),
)
STEPS = (10, 20, 30, 40)
SCORES = {"sync_real": 0.9, "sync_generated": 0.5, "sync_control": None, "psnr_mouth": 21.5}


def shade(level: int) -> np.ndarray:
    return np.full((4, 8, 8, 3), level, np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stage1")
    lines = [",".join([*(f"{step + place}" for place, _ in enumerate(COLUMNS)), str(step)]) for step in STEPS]
    (folder / "metrics.000.csv").write_text("\n".join([",".join([*COLUMNS, "step"]), *lines[:2], ""]))
    (folder / "metrics.csv").write_text("\n".join([",".join([*COLUMNS, "step"]), *lines[2:], ""]))
    (folder / "config.yaml").write_text("name: <stage1>\nsource: https://example.org\n")
    for step in STEPS:
        strip, video = f"samples/step_{step}.png", f"samples/step_{step}.mp4"
        save_png(folder / strip, film_strip([shade(200), shade(128), shade(step)]))
        (folder / video).write_bytes(f"film {step}".encode())
        put_rows(
            folder / "samples" / "samples.csv",
            step,
            [{"number": 0, "id": "a <b>", "strip": strip, "video": video, **SCORES}],
        )
        counts = {"-0.05": 0, "0.00": step, "0.05": 2}
        put_rows(folder / "similarities.csv", step, [{"kind": "matching", **counts}, {"kind": "foreign", **counts}])
    return folder


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return render_training(read_training_run(run))


def test_every_logged_name_is_drawn(html: str):
    for name in (
        "lr-AdamW",
        "something/else",
        "Loss term: noise",
        "gradient_norm",
        "MFU",
        "sync_generated",
        "psnr_mouth",
    ):
        assert name in html
    assert html.count("<svg") == 11 + 3  # similarity's mean and spread share a panel; three histograms


def test_the_newest_values_stand_at_the_top(html: str):
    top = html[html.index('id="now"') : html.index('id="curves"')]
    shown = dict(re.findall(r'<span>([^<]*)</span></div>\s*<div class="value">([^<]*)</div>', top))
    assert shown["Step"] == "40"
    assert shown["Skipped steps"] == "44"
    assert shown["sync generated"] == "46"


def test_a_resumed_run_says_so(html: str):
    assert "resumed 1 time." in html


def test_the_last_validation_is_shown_with_videos_and_scores(html: str):
    assert html.count(base64.b64encode(b"film 40").decode()) == 1
    assert base64.b64encode(b"film 30").decode() not in html
    assert "sync score 0.500 · of the real lips 0.900 · PSNR of the mouth (dB) 21.500" in html


def test_the_comparison_shows_real_frames_then_the_first_middle_and_last_generated_ones(html: str):
    assert "generated ones after step 10, step 20 and step 40" in html
    address = re.findall(r'src="data:image/png;base64,([^"]*)"', html)[-1]
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(address), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert [int(row[0, 0, 0]) for row in strip_rows(picture, 4)] == [200, 10, 20, 40]


def test_names_and_configuration_cannot_become_markup_and_nothing_is_fetched(html: str):
    assert "a &lt;b&gt;" in html
    assert "name: &lt;stage1&gt;" in html
    assert "<b>" not in html
    addresses = re.findall(r'(?:src|href|poster|srcset|xlink:href)="([^"]*)"', html)
    assert len(addresses) > 5
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "<script" not in html


def test_ids_on_the_page_are_unique(html: str):
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids)) > 50


def test_a_file_that_is_gone_is_named(run: Path, tmp_path: Path):
    run = shutil.copytree(run, tmp_path / "run")
    (run / "samples" / "step_40.mp4").unlink()
    (run / "samples" / "step_20.png").unlink()
    html = render_training(read_training_run(run))
    assert "not in the run folder: samples/step_40.mp4" in html


def test_a_run_that_has_only_begun_says_what_is_missing(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("name: stage1\n")
    html = render_training(read_training_run(tmp_path))
    assert "Nothing is logged yet" in html
    assert 'id="samples"' not in html
    assert "name: stage1" in html


def test_one_validation_is_compared_with_nothing(run: Path, tmp_path: Path):
    run = shutil.copytree(run, tmp_path / "run")
    (run / "samples" / "samples.csv").unlink()
    put_rows(
        run / "samples" / "samples.csv",
        10,
        [{"number": 0, "id": "a", "strip": "samples/step_10.png", "video": "none", **SCORES}],
    )
    assert "What training changed" not in render_training(read_training_run(run))
