import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import CommandLine
from lipsync_lightning.errors import BrokenShard, MissingShards
from lipsync_lightning.preparation.inspection import inspect_shards
from lipsync_lightning.preparation.ledger import piece_path, read_piece, write_piece
from lipsync_lightning.prepare import main
from lipsync_lightning.shards.format import sidecar_path
from tiny_media import sound_of, write_video
from tiny_recipe import prepared


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of five clips, one of them held out, and the ledger, of which a text among the sources was rejected."""
    folder = tmp_path_factory.mktemp("data")
    for index in range(5):
        write_video(folder / "raw" / f"<b>person {index}.mp4", 14 + index, sound_of(14 + index))
    (folder / "raw" / "notes 9.txt").write_text("no video")
    prepared(folder / "raw", folder / "shards", sources_per_shard=2, num_heldout=1)
    return folder / "shards"


@pytest.fixture
def shards(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "shards"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_whole_shards_are_told_in_the_terminal_and_on_a_page_beside_them(shards: Path, command_line: CommandLine):
    before = contents(shards)
    shown = command_line.run(main, f"inspect={shards}")
    lines = [line.split() for line in shown.splitlines()]
    assert ["train", "2", "0", "4", "4", "0.00", "0.6", "0.6", "0.7", "0.00"] in lines
    assert ["heldout", "1", "0", "1", "1", "0.00", "0.6", "0.6", "0.6", "0.00"] in lines
    assert ["source", "kept", "5"] in lines
    assert ["clip", "kept", "5"] in lines
    assert "source  rejected  check  not readable as video or sound" in shown
    assert "whole: every shard was read from end to end" in shown
    after = contents(shards)
    assert {name: after[name] for name in before} == before
    new = {f"inspection/{name}" for name in ("index.html", "train.png", "heldout.png")}
    assert after.keys() - before.keys() == new
    page = (shards / "inspection" / "index.html").read_text()
    assert "data:image/png;base64" in page
    assert "<b>person" not in page


def test_shards_without_a_ledger_are_read_all_the_same(shards: Path, capsys: pytest.CaptureFixture[str]):
    shutil.rmtree(shards / "ledger")
    inspect_shards(shards)
    shown = capsys.readouterr().out
    assert "whole" in shown
    assert "rejected" not in shown


def flip_a_byte(shards: Path) -> None:
    shard = shards / "train" / "000000.tar"
    content = bytearray(shard.read_bytes())
    content[700] ^= 1
    shard.write_bytes(content)


def lose_a_shard(shards: Path) -> None:
    (shards / "train" / "000000.tar").unlink()
    (shards / "train" / "000000.json").unlink()


def copy_to_heldout(shards: Path) -> None:
    for suffix in (".tar", ".json"):
        shutil.copy(shards / "train" / f"000000{suffix}", shards / "heldout" / f"000042{suffix}")


def forget_a_clip(shards: Path) -> None:
    write_piece(shards, "train/000000", read_piece(piece_path(shards, "train/000000"))[1:])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (flip_a_byte, "train/000000: .* has another sha256"),
        (lambda shards: (shards / "train" / "000000.tar").unlink(), "train/000000: .* is missing"),
        (lambda shards: sidecar_path(shards / "train" / "000000.tar").unlink(), "train/000000: .* has no sidecar"),
        (lose_a_shard, "train/000000: the ledger says it holds [12] clips, it is missing"),
        (copy_to_heldout, "heldout/000042: [12] of its ids are also in train/000000"),
        (forget_a_clip, "train/000000: 1 clips are only in one of the ledger and the shard"),
        (lambda shards: piece_path(shards, "train/000000").write_text("x"), "ledger: .* is no piece of a ledger"),
    ],
)
def test_every_damage_is_found(
    shards: Path, damage: Callable[[Path], object], told: str, capsys: pytest.CaptureFixture[str]
):
    damage(shards)
    with pytest.raises(BrokenShard, match="faults, the first is"):
        inspect_shards(shards)
    broken = [line for line in capsys.readouterr().out.splitlines() if line.startswith("BROKEN")]
    assert any(re.search(told, line) for line in broken), broken
    assert "broken" in (shards / "inspection" / "index.html").read_text()


def test_damage_and_an_empty_folder_end_the_command_with_one_sentence(shards: Path, command_line: CommandLine):
    flip_a_byte(shards)
    assert "faults, the first is: train/000000" in command_line.refusal(main, f"inspect={shards}")
    with pytest.raises(MissingShards):
        inspect_shards(shards.parent)
