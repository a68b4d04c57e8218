import json
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from command_line import CommandLine
from lipsync_lightning.callbacks.samples import put_rows
from lipsync_lightning.commands.report import run_names, stack, write_report
from lipsync_lightning.errors import BadConfig, BadMedia
from lipsync_lightning.media.strips import film_strip, read_png, save_png, strip_rows
from lipsync_lightning.report import main

COLUMNS = (
    *("lr-AdamW", "train/loss", "train/loss_noise", "train/skipped_steps", "val/loss", "val/sync_generated"),
    *("val/psnr_mouth", "val/similarity_matching_mean", "vitals/mfu", "something/else"),
)
STEPS = (10, 20, 30, 40)
SCORES = {"sync_real": 0.9, "sync_generated": 0.5, "sync_control": None, "psnr_mouth": 21.5}


def shade(level: int) -> np.ndarray:
    return np.full((4, 8, 8, 3), level, np.uint8)


def write_run(folder: Path) -> Path:
    """Write what a training leaves that was resumed once."""
    folder.mkdir(parents=True)
    lines = [",".join([*(f"{step + place}" for place, _ in enumerate(COLUMNS)), str(step)]) for step in STEPS]
    (folder / "metrics.000.csv").write_text("\n".join([",".join([*COLUMNS, "step"]), *lines[:2], ""]))
    (folder / "metrics.csv").write_text("\n".join([",".join([*COLUMNS, "step"]), *lines[2:], ""]))
    (folder / "config.yaml").write_text("name: <stage1>\nsource: https://example.org\n")
    for step in STEPS:
        strip, video = f"samples/step_{step}.png", f"samples/step_{step}.mp4"
        save_png(folder / strip, film_strip([shade(200), shade(128), shade(step)]))
        row = {"number": 0, "id": "a <b>", "strip": strip, "video": video, **SCORES}
        put_rows(folder / "samples" / "samples.csv", step, [row])
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "stage1")


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return write_report(run).read_text()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a demo leaves: several trainings, an evaluation, and the steps that were done."""
    folder = tmp_path_factory.mktemp("demo")
    for stage in ("stage2", "syncnet"):
        write_run(folder / stage)
    save_png(folder / "clip.png", film_strip([shade(200), shade(128), shade(7)]))
    files = {"video": "clip.mp4", "strip": "clip.png"}
    names = {"condition": "other speech", "person": "<ann>", "speech": "bob"}
    figures = {"real video": {"syncnet_accuracy": 0.95}, "stage2": {"mouth_correlation": 0.7, "something_new": 3}}
    rows = [{"system": "stage2", **names, "mouth_correlation": 0.7, **files}]
    bars = {"syncnet_accuracy": 0.9, "mouth_correlation": 0.8}
    (folder / "metrics.json").write_text(json.dumps({"figures": figures, "bars": bars, "rows": rows}))
    steps = [
        {"step": "prepare", "command": "make a > b", "seconds": 65.0, "peak_memory_mb": 500},
        {"step": "train", "command": "train", "seconds": 3600, "peak_memory_mb": 900.4},
    ]
    (folder / "steps.json").write_text(json.dumps(steps))
    return folder


def text_of(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<style.*?</style>", "", html))).split())


def test_the_page_of_a_run_compares_its_first_middle_and_last_validation(html: str):
    text = text_of(html)
    assert "metric step 10 step 20 step 40" in text
    assert "PSNR of samples ↑ 16.0 dB 26.0 dB 46.0 dB" in text
    assert "resumed 1 time." in text


def test_every_logged_name_is_drawn_and_few_of_them_unfolded(html: str):
    assert html.count("<svg") == 9  # both losses share a panel
    assert html[: html.index("<h2>Details</h2>")].count("<svg") == 3


def test_samples_show_real_frames_then_what_was_made_at_first_in_the_middle_and_last(run: Path, html: str):
    assert "From top to bottom: real, after step 10, after step 20, after step 40." in html
    assert "Sync score, real 0.900, Sync score, generated 0.500, PSNR of samples 21.5 dB" in html
    assert '"../samples/step_40.mp4"' in html
    picture = read_png(run / "report" / "_sample_0.png")
    assert [int(row[0, 0, 0]) for row in strip_rows(picture, 4)] == [200, 10, 20, 40]


def test_a_strip_that_is_gone_is_left_out_and_without_the_last_there_is_no_picture(tmp_path: Path):
    for level in (10, 40):
        save_png(tmp_path / f"{level}.png", film_strip([shade(200), shade(128), shade(level)]))
    strips = [tmp_path / f"{level}.png" for level in (10, 20, 40)]
    assert stack(strips, tmp_path / "out.png") == tmp_path / "out.png"
    assert [int(row[0, 0, 0]) for row in strip_rows(read_png(tmp_path / "out.png"), 3)] == [200, 10, 40]
    assert stack(strips[:2], tmp_path / "out.png") is None


def test_the_page_of_a_demo_has_the_evaluation_first_and_all_runs_and_steps_folded(demo: Path):
    html = write_report(demo).read_text()
    text = text_of(html)
    assert "metric real video stage2 asked" in text
    assert "SyncNet tells own from foreign sound ↑ 0.950 ≥ 0.900 reached" in text
    assert "Mouth follows the speech ↑ 0.700 ≥ 0.800 missed" in text
    assert "something_new 3.000" in text
    assert "&lt;ann&gt; says the words of bob" in html
    for heading in ("stage2: configuration", "syncnet: samples of held-out clips", "newest values of each training"):
        assert heading in html
    assert "make a > b 65 s 500 MB" in text
    assert "all 3665 s 900 MB" in text
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids)) > 50
    assert write_report(demo).read_text() == html


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("name: stage1\n")
    assert "name: stage1" in write_report(tmp_path).read_text()


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_a_folder_without_anything_to_report_is_refused(tmp_path: Path, folder: str):
    with pytest.raises(BadConfig, match="holds nothing to report"):
        write_report(tmp_path / folder)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.json", '{"psnr": 1', "is not JSON"),
        ("metrics.json", "[]", "is not as this version writes it"),
        ("metrics.json", '{"psnr": 20}', "is not as this version writes it"),
        ("stage1/metrics.csv", "epoch,train/loss\n0,1\n", "is not a log of numbers"),
    ],
)
def test_a_broken_file_is_named_and_the_old_page_stays(tmp_path: Path, file: str, content: str, message: str):
    (tmp_path / "steps.json").write_text('[{"step": "a", "command": "b", "seconds": 1, "peak_memory_mb": 2}]')
    before = write_report(tmp_path).read_text()
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(content)
    with pytest.raises(BadMedia, match=f"{file} {message}"):
        write_report(tmp_path)
    assert (tmp_path / "report" / "index.html").read_text() == before


def test_the_command_writes_the_page_and_no_log(run: Path, command_line: CommandLine):
    assert command_line.run(main, f"run={run}").startswith(f"{run}/report/index.html")
    assert "run=nowhere holds nothing to report" in command_line.refusal(main, "run=nowhere")
    assert not list(command_line.folder.iterdir())


def test_the_jobs_of_a_sweep_are_named_by_what_differs(tmp_path: Path):
    for number, rate in enumerate((1e-3, 1e-4)):
        folder = tmp_path / str(number)
        folder.mkdir()
        settings = {"run_dir": str(folder), "seed": 1, "module": {"optimizer": {"lr": rate}}}
        OmegaConf.save(OmegaConf.create(settings), folder / "config.yaml")
        (folder / "metrics.csv").write_text(f"step,val/loss\n9,{rate}\n")
    assert run_names([tmp_path / "0", tmp_path / "1"]) == ["0: lr=0.001", "1: lr=0.0001"]
    page = write_report(tmp_path).read_text()
    assert "0: lr=0.001" in page
    assert "1: lr=0.0001" in page
