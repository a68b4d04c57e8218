import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from command_line import CommandLine
from lipsync_lightning.cli import build
from lipsync_lightning.files import CONF_DIR
from lipsync_lightning.preparation import executors
from lipsync_lightning.preparation.recipe import Recipe
from lipsync_lightning.prepare import main
from tiny_media import sound_of, write_video


@pytest.fixture
def command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(tmp_path, monkeypatch, capfd)


SETTINGS = (
    "recipe=synthetic",
    "clip=demo_64px",
    "executor.num_workers=0",
    "recipe.min_seconds=0.7",
    "recipe.check.min_dbfs=-200",
)


def test_a_folder_with_good_and_bad_files_becomes_shards_and_a_summary(command_line: CommandLine, tmp_path: Path):
    write_video(tmp_path / "ä raw" / "train" / "one.mp4", 20, sound_of(20))
    (tmp_path / "ä raw" / "train" / "notes.txt").write_text("no video")
    shown = command_line.run(main, *SETTINGS, 'recipe.source="ä raw"', "out=the shards")
    assert "1 clips in the shards" in shown
    assert "2 sources: 1 kept, 1 rejected, 0 failed; each with its reason: the shards/ledger" in shown
    assert "check: 1 rejected" in shown
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
    assert "error: none of 1 sources below raw gave a clip; commonest reasons: no sound (1 times)" in done.stderr


@pytest.mark.parametrize("recipe", sorted(path.stem for path in (CONF_DIR / "recipe").glob("*.yaml")))
def test_every_recipe_composes_and_is_built_without_any_weights(recipe: str, tmp_path: Path):
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        config = compose("prepare", overrides=[f"recipe={recipe}", f"recipe.source={tmp_path}"])
    built = build(config.recipe)
    assert isinstance(built, Recipe)
    assert list(built.versions(build(config.clip))) == [
        "check",
        "shots",
        "faces",
        "segments",
        "sync",
        "sound",
        "quality",
    ]
    published = recipe in ("published", "hdtf", "voxceleb2")
    assert ("skipped" in built.versions(build(config.clip)).values()) == (not published)


@pytest.mark.parametrize(("executor", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_executor_whose_package_is_missing_says_what_to_install(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: str, package: str
):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"lipsync_lightning.preparation.executors.{executor}", raising=False)
    monkeypatch.delattr(executors, executor, raising=False)
    refused = command_line.refusal(main, *SETTINGS[:2], f"executor={executor}", "recipe.source=.", "out=x")
    assert f"which is not installed: pip install 'lipsync-lightning[{executor}]'" in refused


def made(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for folder in ("train", "ledger")
        for path in (out / folder).glob("*")
    }


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_and_ends_with_the_same_bytes(tmp_path: Path):
    for number in range(8):
        write_video(tmp_path / "raw" / f"{number}.mp4", 40 + number, sound_of(40 + number))
    command = [
        sys.executable,
        "-m",
        "lipsync_lightning.prepare",
        *SETTINGS,
        "executor.num_workers=1",
        "recipe.source=raw",
    ]
    subprocess.run([*command, "out=whole"], cwd=tmp_path, check=True, capture_output=True)
    process = subprocess.Popen(
        [*command, "out=killed"], cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True
    )
    parcels = tmp_path / "killed" / "work" / "train"
    while len(list(parcels.glob("*/*.tar"))) < 3:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = list(parcels.glob("*/*.tar"))
    assert 3 <= len(finished) < 8
    for path in finished:  # were they worked on again, they would now be rejected
        source = tmp_path / "raw" / f"{int(path.stem)}.mp4"
        source.write_bytes(bytes(source.stat().st_size))
    subprocess.run([*command, "out=killed"], cwd=tmp_path, check=True, capture_output=True)
    assert made(tmp_path / "killed") == made(tmp_path / "whole")
