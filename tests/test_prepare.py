import subprocess
import sys
from pathlib import Path

import pytest

from command_line import CommandLine
from lipsync_lightning.prepare import main
from tiny_media import sound_of, write_video


@pytest.fixture
def command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(tmp_path, monkeypatch, capfd)


SETTINGS = ("recipe=synthetic", "clip=demo_64px", "num_workers=0", "recipe.min_seconds=0.7")


def test_a_folder_with_good_and_bad_files_becomes_shards_and_a_summary(command_line: CommandLine, tmp_path: Path):
    write_video(tmp_path / "ä raw" / "train" / "one.mp4", 20, sound_of(20))
    (tmp_path / "ä raw" / "train" / "notes.txt").write_text("no video")
    shown = command_line.run(main, *SETTINGS, 'recipe.source="ä raw"', "out=the shards")
    assert "1 clips of 2 sources in the shards; what became of each source: the shards/ledger.jsonl" in shown
    assert "rejected 1: ä raw/train/notes.txt: not readable as video" in shown
    assert sorted(path.name for path in (tmp_path / "the shards" / "train").iterdir()) == ["000000.json", "000000.tar"]


def test_nothing_to_prepare_is_one_sentence(command_line: CommandLine, tmp_path: Path):
    assert command_line.refusal(main, "out=x").startswith("error: Missing mandatory value")
    assert "is not a folder" in command_line.refusal(main, *SETTINGS, "recipe.source=nowhere", "out=x")
    assert "need 0 < min_seconds <= max_seconds" in command_line.refusal(
        main, *SETTINGS, "recipe.source=.", "recipe.max_seconds=0.1", "out=x"
    )
    assert "recipe.min_second" in command_line.refusal(main, "recipe.source=.", "recipe.min_second=1")


def test_only_bad_files_end_with_status_1_and_one_sentence_in_a_process_of_its_own(tmp_path: Path):
    write_video(tmp_path / "raw" / "one.mp4", 20, None)
    command = [sys.executable, "-m", "lipsync_lightning.prepare", *SETTINGS, "recipe.source=raw", "out=shards"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "error: none of 1 sources below raw gave a clip; commonest reasons: [('no sound', 1)]" in done.stderr
