import json
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lipsync_lightning.errors import BadConfig, BadMedia
from lipsync_lightning.evaluation.curves import read_csv_log, smoothed
from lipsync_lightning.evaluation.headlines import number
from lipsync_lightning.evaluation.old_page import duration, means_table
from lipsync_lightning.evaluation.run_folder import read_run
from lipsync_lightning.media.strips import save_png
from lipsync_lightning.report import main, write_report

CSV_LOG = """epoch,step,train/loss,train/loss_noise,train/loss_sync,val/accuracy,val/loss
0,0,3.0,1.0,2.0,,
0,10,2.0,0.5,1.5,,
0,10,,,,0.75,2.5
1,20,1.0,0.4,0.6,,
1,20,,,,0.9,1.5
"""
ROWS: list[dict[str, Any]] = [
    {"system": "stage2", "condition": "own speech", "person": "ann", "speech": "ann", "psnr": 20.0, "av_offset": 1},
    {"system": "stage2", "condition": "own speech", "person": "bob", "speech": "bob", "psnr": 24.0, "av_offset": 0},
    {"system": "real", "condition": "real", "person": "<ann>", "speech": "ann", "psnr": float("inf")},
]


class Addresses(HTMLParser):
    """Collects what a browser would fetch, and tags left open."""

    void = ("meta", "link", "img", "br", "input", "path", "use", "rect")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "poster", "srcset")
        ]
        self.tags.append(tag)
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.void:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "demo"
    for stage in ("stage2", "syncnet"):
        (folder / stage).mkdir(parents=True)
        (folder / stage / "metrics.csv").write_text(CSV_LOG)
    (folder / "clip.mp4").write_bytes(b"film")
    save_png(folder / "clip.png", np.zeros((4, 4, 3), np.uint8))
    rows = [{**ROWS[0], "video": "clip.mp4", "strip": "clip.png"}, {**ROWS[1], "video": "gone.mp4"}, ROWS[2]]
    bars = {"syncnet_accuracy": 0.9, "mouth_correlation_cross": 0.8, "never_measured": 1}
    figures = {"syncnet_accuracy": 0.95, "mouth_correlation_cross": 0.7, "something_new": 3}
    (folder / "metrics.json").write_text(json.dumps({**figures, "bars": bars, "rows": rows}))
    steps = [
        {"step": "prepare", "command": "make a > b", "seconds": 65.0, "peak_memory_mb": 500},
        {"step": "train", "command": "train", "seconds": 3600, "peak_memory_mb": 900.4},
    ]
    (folder / "steps.json").write_text(json.dumps(steps))
    return folder


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return page(run)


def page(run: Path) -> str:
    return write_report(run, run / "report" / "index.html").read_text()


def text_of(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<style.*?</style>", "", html))).split())


def test_the_page_fetches_nothing_and_runs_nothing(html: str):
    addresses = Addresses(html)
    assert not [each for each in addresses.found if not each.startswith(("data:", "#"))]
    assert "://" not in html
    assert "script" not in addresses.tags
    assert addresses.open == []


def test_ids_on_the_page_are_unique(html: str):
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids)) > 50


def test_the_same_run_gives_the_same_page(run: Path, html: str):
    assert page(run) == html


def test_figures_say_whether_they_reached_what_was_asked(html: str):
    text = text_of(html)
    assert re.search(r"SyncNet accuracy reached 0\.950 asked: at least 0\.900", text)
    assert re.search(r"Mouth follows new speech not reached 0\.700 asked: at least 0\.800", text)
    assert re.search(r"something new 3 Recorded", text)
    assert re.search(r"never measured not reached – asked: at least 1", text)


def test_videos_and_strips_are_inlined_and_missing_ones_named(html: str):
    assert html.count('src="data:video/mp4;base64,ZmlsbQ=="') == 1
    assert html.count('src="data:image/png;base64,') == 1
    assert "Face of ann, speech of ann." in html
    assert "not in the run folder: gone.mp4" in html


def test_names_from_the_run_cannot_become_markup(html: str):
    assert "&lt;ann&gt;" in html
    assert "<ann>" not in html


def test_every_stage_shows_its_panels_in_the_order_of_training(html: str):
    assert html.count("<svg") == 6
    assert html.index("<h3>syncnet</h3>") < html.index("<h3>stage2</h3>")


def test_steps_are_added_up(html: str):
    text = text_of(html)
    assert "make a > b 1 min 5 s 500" in text
    assert "total 1 h 1 min 900" in text


def test_a_page_of_steps_alone_says_what_is_missing(tmp_path: Path):
    (tmp_path / "steps.json").write_text('[{"step": "prepare", "seconds": 1.0}]')
    text = text_of(page(tmp_path))
    for sentence in ("no overall figures", "No single clips", "no videos or film strips", "no training logs"):
        assert sentence in text


def test_the_folder_of_one_training_run_has_a_page_of_its_own(tmp_path: Path):
    (tmp_path / "metrics.csv").write_text(CSV_LOG)
    text = text_of(page(tmp_path))
    assert text.startswith(f"{tmp_path.name} · lip-sync report {tmp_path.name} Training report")
    assert "Accuracy and AUC" in text


def test_means_are_taken_over_what_was_measured():
    table = means_table([*ROWS, {"system": "real", "condition": "real", "psnr": None}])
    assert table is not None
    assert table.columns == ["system", "condition", "clips", "PSNR (dB)", "offset (frames)"]
    assert table.rows == [["stage2", "own speech", "2", "22.000", "0.500"], ["real", "real", "2", "∞", "–"]]


def test_sparse_rows_of_the_csv_belong_to_the_column_that_has_a_value(tmp_path: Path):
    (tmp_path / "metrics.csv").write_text(CSV_LOG)
    log = read_csv_log(tmp_path / "metrics.csv")
    assert [each.tolist() for each in log["val/accuracy"]] == [[10, 20], [0.75, 0.9]]
    assert [each.tolist() for each in log["train/loss"]] == [[0, 10, 20], [3, 2, 1]]


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path):
    log = tmp_path / "metrics.csv"
    log.write_text("step,train/loss\r\n0,3\r\n1,2")
    assert read_csv_log(log)["train/loss"][1].tolist() == [3]
    log.write_text("")
    assert read_csv_log(log) == {}


def test_smoothing_keeps_a_constant_and_calms_noise():
    np.testing.assert_allclose(smoothed(np.full(100, 3.0)), 3.0)
    noise = np.random.default_rng(1).normal(size=400)
    assert smoothed(noise).std() < 0.4 * noise.std()
    assert len(smoothed(np.ones(1))) == 1


def test_numbers_are_short():
    assert [number(value) for value in (0.12345, -2, float("inf"), None, "ann")] == ["0.123", "−2", "∞", "–", "ann"]
    assert [duration(seconds) for seconds in (8.44, 59.97, 200, 7500, None)] == [
        "8.4 s",
        "1 min 0 s",
        "3 min 20 s",
        "2 h 5 min",
        "–",
    ]


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_a_folder_without_anything_to_report_is_refused(tmp_path: Path, folder: str):
    with pytest.raises(BadConfig, match=r"run=runs/demo|nothing to report"):
        page(tmp_path / folder)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.json", '{"psnr": 1', "is not JSON"),
        ("metrics.json", "[]", "must hold a dict"),
        ("metrics.json", '{"rows": [1]}', "rows must be a list of mappings"),
        ("metrics.json", '{"bars": {"psnr": "high"}}', "bars must map"),
        ("steps.json", '[{"step": "a", "seconds": "long"}]', "seconds must be a number"),
        ("stage1/metrics.csv", "epoch,train/loss\n0,1\n", "no column 'step'"),
        ("stage1/metrics.csv", "step,train/loss\n0,1\n1,lo\n", "line 3"),
    ],
)
def test_a_broken_file_is_named_and_the_old_page_stays(tmp_path: Path, file: str, content: str, message: str):
    (tmp_path / "steps.json").write_text('[{"step": "prepare"}]')
    before = page(tmp_path)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(content)
    with pytest.raises(BadMedia, match=f"{file}.*{message}"):
        page(tmp_path)
    assert (tmp_path / "report" / "index.html").read_text() == before


def test_the_command_writes_the_page_and_no_log(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(run.parent)
    monkeypatch.setattr(sys, "argv", ["report", "run=demo"])
    main()
    assert capsys.readouterr().out.startswith("demo/report/index.html")
    assert [each.name for each in run.parent.iterdir()] == ["demo"]


def test_a_missing_run_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report", "run=nowhere"])
    with pytest.raises(SystemExit):
        main()
    assert (
        capsys.readouterr().err
        == "error: run=nowhere is not a folder; give the folder of a finished run, such as run=runs/demo\n"
    )


def test_making_a_page_does_not_wait_for_torch():
    code = "import sys, lipsync_lightning.evaluation.old_page, lipsync_lightning.evaluation.training_page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_parts_of_a_resumed_stages_log_are_one_curve(tmp_path: Path):
    stage = tmp_path / "stage1"
    stage.mkdir()
    (stage / "metrics.000.csv").write_text("step,train/loss\n0,3\n1,2\n")
    assert read_run(tmp_path).stages["stage1"]["train/loss"][1].tolist() == [3, 2]
    (stage / "metrics.csv").write_text("step,train/loss\n2,1\n")
    steps, values = read_run(tmp_path).stages["stage1"]["train/loss"]
    assert (steps.tolist(), values.tolist()) == ([0, 1, 2], [3, 2, 1])


def test_steps_that_were_done_again_are_those_of_the_later_part(tmp_path: Path):
    stage = tmp_path / "stage1"
    stage.mkdir()
    (stage / "metrics.000.csv").write_text("step,train/loss,val/loss\n0,3,\n1,2,9\n2,7,8\n")
    (stage / "metrics.csv").write_text("step,train/loss\n2,1\n3,0\n")
    log = read_run(tmp_path).stages["stage1"]
    assert [each.tolist() for each in log["train/loss"]] == [[0, 1, 2, 3], [3, 2, 1, 0]]
    assert [each.tolist() for each in log["val/loss"]] == [[1], [9]]


def test_a_folder_of_several_runs_without_evaluation_is_refused_naming_them(tmp_path: Path):
    for name in ("stage1", "syncnet"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("name: demo")
        (tmp_path / name / "metrics.csv").write_text(CSV_LOG)
    with pytest.raises(
        BadConfig, match=r"holds several runs and no evaluation of them; give one of them: .*/stage1, .*/syncnet"
    ):
        write_report(tmp_path, tmp_path / "report" / "index.html")
    assert not (tmp_path / "report").exists()
