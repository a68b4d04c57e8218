import os
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from command_line import CommandLine
from lipsync_lightning.cli import build
from lipsync_lightning.files import CONF_DIR
from lipsync_lightning.preparation import executors
from lipsync_lightning.prepare import main
from tiny_media import sound_of, write_video

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
    assert "sources not kept: check 1" in shown
    assert sorted(path.name for path in (tmp_path / "the shards" / "train").iterdir()) == ["000000.json", "000000.tar"]


def test_nothing_to_prepare_is_one_sentence(command_line: CommandLine, tmp_path: Path):
    assert command_line.refusal(main, "out=x").startswith("error: Missing mandatory value")
    assert "is not a folder" in command_line.refusal(main, *SETTINGS, "recipe.source=nowhere", "out=x")
    assert "need 0 < min_seconds <= max_seconds" in command_line.refusal(
        main, *SETTINGS, "recipe.source=.", "recipe.max_seconds=0.1", "out=x"
    )
    assert "recipe.min_second" in command_line.refusal(main, "recipe.source=.", "recipe.min_second=1")


def test_only_bad_files_end_with_one_sentence(command_line: CommandLine, tmp_path: Path):
    write_video(tmp_path / "raw" / "one.mp4", 20, None)
    told = "error: none of 1 sources below raw gave a clip; commonest reasons: no sound (1 times)"
    assert told in command_line.refusal(main, *SETTINGS, "recipe.source=raw", "out=shards")
    assert not list((tmp_path / "shards").rglob("*.tar")), "no clip, no tar"


RECIPES = ["folder", "synthetic", "published", "hdtf", "voxceleb2"]


@pytest.mark.parametrize(("recipe", "executor"), [*product(RECIPES, ["local"]), ("folder", "ray"), ("folder", "slurm")])
def test_every_recipe_and_executor_composes_and_is_built_without_any_weights(
    recipe: str, executor: str, tmp_path: Path
):
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        config = compose("prepare", [f"recipe={recipe}", f"executor={executor}", f"recipe.source={tmp_path}"])
    built, is_published = build(config.recipe), recipe in ("published", "hdtf", "voxceleb2")
    assert (built.sync is not None, built.quality is not None) == (is_published, is_published)
    assert build(config.executor).max_hours_per_source > 0


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
    folders = ("train", "ledger")
    return {str(path.relative_to(out)): path.read_bytes() for each in folders for path in (out / each).glob("*")}


def test_a_run_that_is_killed_goes_on_and_ends_with_the_same_bytes(command_line: CommandLine, tmp_path: Path):
    for number in range(16):
        write_video(tmp_path / "raw" / f"{number}.mp4", 40 + number, sound_of(40 + number))
    settings = (*SETTINGS, "sources_per_shard=2", "recipe.source=raw")
    command_line.run(main, *settings, "out=whole")
    process = subprocess.Popen(
        [sys.executable, "-m", "lipsync_lightning.prepare", *settings, "out=killed"], stderr=subprocess.DEVNULL
    )
    pieces = tmp_path / "killed" / "ledger"
    while len(list(pieces.glob("*.parquet"))) < 3:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in pieces.glob("*.parquet")}
    assert 3 <= len(finished) < 8
    command_line.run(main, *settings, "out=killed")
    assert made(tmp_path / "killed") == made(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "what was done is passed over"
