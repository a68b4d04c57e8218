import json
from pathlib import Path

import pytest

from command_line import CommandLine
from lipsync_lightning.judge import figures_of, main
from tiny_media import sound_of, write_video


@pytest.fixture
def command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(tmp_path, monkeypatch, capfd)


@pytest.fixture
def settings(run: Path, tmp_path: Path, make_syncnet) -> list[str]:
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / "unseen" / name, 45, sound_of(45))
    make_syncnet().save_pretrained(tmp_path / "syncnet")
    networks = ["faces=sidecar", "models/features@lpips=lpips_untrained", "syncnet.path=syncnet"]
    return [f"run={run}", "videos=unseen", "num_videos=2", "num_inference_steps=1", *networks]


def test_a_run_is_judged_without_writing_a_video(settings, run: Path, command_line: CommandLine):
    said = command_line.run(main, *settings)
    scores = json.loads((run / "scores.json").read_text())
    conditions = {(row["system"], row["condition"]) for row in scores["rows"]}
    assert conditions == {
        ("real video", "own speech"),
        *(("generated", f"{which} speech") for which in ("own", "other", "shuffled")),
    }
    assert {
        "sync_confidence",
        "sync_confidence_shuffled",
        "sync_confidence_real",
        "psnr",
        "ssim",
        "temporal_error",
    } <= set(scores)
    assert f"psnr {scores['psnr']:.3f}" in said
    assert not list(run.rglob("*.mp4"))
    assert json.loads((run / "scores.json").read_text()) == scores


def test_a_run_that_cannot_be_judged_keeps_its_former_scores(settings, run: Path, command_line: CommandLine):
    (run / "scores.json").write_text("{}")
    assert "9 mp4 files wanted, 2 there" in command_line.refusal(main, *settings, "num_videos=9")
    assert (run / "scores.json").read_text() == "{}"


def test_what_was_not_measured_is_not_a_figure():
    rows = [{"system": "generated", "condition": "other speech", "sync_confidence": 2.0}]
    assert figures_of(rows) == {"sync_confidence": 2.0}
