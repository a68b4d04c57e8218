import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from command_line import CommandLine
from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BrokenShard, MissingShards
from lipsync_lightning.evaluation.old_page import Table
from lipsync_lightning.preparation import shard_survey
from lipsync_lightning.preparation.ledger import (
    CLIP,
    FAILED,
    KEPT,
    REJECTED,
    SOURCE,
    Row,
    piece_path,
    read_ledger,
    write_piece,
)
from lipsync_lightning.preparation.ledger_survey import SharedFiles
from lipsync_lightning.preparation.shard_page import aligned, render_survey, terminal_lines
from lipsync_lightning.preparation.shard_survey import ShardSurvey, survey_shards
from lipsync_lightning.prepare import inspect_shards, main
from lipsync_lightning.shards.format import FinishedClip, read_sidecar, sidecar_path, write_shard
from tiny_media import level, sound_of, write_video
from tiny_recipe import prepared

CLIP_SPEC = ClipSpec(num_frames=4, fps=25, resolution=32, sample_rate_hz=16000, mel_hz=80, num_mels=80)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training shards of three clips in all, one held-out clip, and a text among the sources."""
    folder = tmp_path_factory.mktemp("data")
    for index in range(4):
        frames = 14 + index
        write_video(
            folder / "raw <b>" / f"person {index}.mp4", frames, sound_of(frames, loud=range(index, frames, 3 + index))
        )
    (folder / "raw <b>" / "person 9.txt").write_text("no video")
    prepared(folder / "raw <b>", folder / "shards", CLIP_SPEC, sources_per_shard=2, num_heldout=1)
    return folder / "shards"


@pytest.fixture
def shards(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "shards"))


@pytest.fixture(scope="module")
def found(made: Path) -> ShardSurvey:
    return survey_shards(made)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def train_shards(shards: Path) -> list[Path]:
    """Those that hold clips: a shard of sources that were all rejected is none."""
    return sorted((shards / "train").glob("*.tar"))


def faults_of(shards: Path) -> list[tuple[str, str]]:
    return [(fault.where, fault.reason) for fault in survey_shards(shards).faults]


def test_each_split_is_told_by_what_its_shards_hold(found: ShardSurvey):
    rows = [row for row in read_ledger(found.folder) if row.kind == CLIP]
    assert found.num_clips == len(rows) == 4
    for split in found.splits:
        of_split = [row for row in rows if row.split == split.name]
        assert split.num_clips == split.num_sources == split.num_people == len(of_split)
        assert sorted(split.seconds) == pytest.approx(sorted((row.num_frames or 0) / 25 for row in of_split))
        assert split.num_bytes == sum(path.stat().st_size for path in (found.folder / split.name).glob("*.tar"))
        assert split.bytes_per_second * split.hours * 3600 == pytest.approx(split.num_bytes)
    assert found.clip == CLIP_SPEC


def test_whole_shards_have_no_fault_and_the_ledger_is_summed_up(found: ShardSurvey):
    assert found.faults == []
    assert found.ledger is not None
    assert found.ledger.totals.sources == {KEPT: 4, REJECTED: 1, FAILED: 0}
    (reason,) = found.ledger.reasons
    assert reason == ("check", "not readable as video or sound (Invalid data found when processing input)")
    assert found.ledger.skipped == {"sync": 4, "quality": 4}
    assert found.ledger.scores == {}


def test_only_the_folder_of_the_inspection_is_written(shards: Path, capsys: pytest.CaptureFixture[str]):
    before = contents(shards)
    page = inspect_shards(shards)
    after = contents(shards)
    assert page == shards / "inspection" / "index.html"
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"inspection/index.html", "inspection/contact_sheet.png"}
    assert "judge skipped: sync, for 4 of 4 kept clips" in capsys.readouterr().out
    inspect_shards(shards)  # again: nothing is in its own way


def test_the_contact_sheet_shows_the_middle_frame_of_each_clip(found: ShardSurvey):
    picture = found.sheet.picture
    assert picture is not None
    assert picture.shape == (32, 4 * 32 + 3 * 2, 3)
    frames = {str(row.id): row.num_frames or 0 for row in read_ledger(found.folder) if row.kind == CLIP}
    shown = [round(float(picture[:, 34 * place : 34 * place + 32].mean())) for place in range(4)]
    assert shown == pytest.approx([level(frames[key] // 2) for key in found.sheet.ids], abs=1.5)


def test_no_more_clips_are_decoded_than_are_shown_and_each_at_one_frame(made: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    decode = shard_survey.decode_window
    monkeypatch.setattr(shard_survey, "NUM_PICTURES", 2)
    monkeypatch.setattr(
        shard_survey, "decode_window", lambda data, first, num: asked.append(num) or decode(data, first, num)
    )
    sheet = survey_shards(made).sheet
    assert asked == [1, 1]
    assert len(sheet.ids) == 2


def test_a_sheet_of_many_clips_has_whole_rows():
    picture = shard_survey._grid([np.zeros((4, 4, 3), np.uint8)] * 11)
    assert picture is not None
    assert picture.shape == (2 * 4 + 2, 8 * 4 + 7 * 2, 3)
    assert picture[-4:, -4:].min() == 255


def test_shards_without_a_ledger_are_read_and_it_is_said(shards: Path):
    shutil.rmtree(shards / "ledger")
    found = survey_shards(shards)
    assert (found.num_clips, found.faults, found.ledger) == (4, [], None)
    assert any(line.startswith("no ledger here") for line in terminal_lines(found))
    assert "no ledger here" in render_survey(found)


def flip_a_byte(shard: Path) -> None:
    content = bytearray(shard.read_bytes())
    content[700] ^= 1
    shard.write_bytes(content)


def cut_after_the_first_member(shard: Path) -> None:
    places = json.loads(sidecar_path(shard).read_text())["clips"][0]["members"]
    first, size, _ = min(places.values())
    shard.write_bytes(shard.read_bytes()[: first + -(-size // 512) * 512])


def lose_all(shard: Path) -> None:
    shard.unlink()
    sidecar_path(shard).unlink()


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (flip_a_byte, "corrupt"),
    (cut_after_the_first_member, "truncated"),
    (lambda shard: sidecar_path(shard).unlink(), "without sidecar"),
    (Path.unlink, "missing"),
    (lose_all, "missing"),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGES, ids=["a byte", "cut", "no sidecar", "no tar", "neither"])
def test_each_damage_is_one_fault_with_shard_and_reason(shards: Path, damage: Callable[[Path], object], reason: str):
    shard = train_shards(shards)[0]
    damage(shard)
    assert faults_of(shards) == [(f"train/{shard.name}", reason)]


def test_a_damaged_shard_is_counted_and_its_clips_are_not(shards: Path):
    flip_a_byte(train_shards(shards)[0])
    train = survey_shards(shards).splits[0]
    assert (train.num_shards, train.num_bad_shards) == (len(train_shards(shards)), 1)
    assert train.num_clips < 3


def test_a_folder_in_which_nothing_is_whole_is_still_told(shards: Path):
    for shard in shards.glob("*/*.tar"):
        flip_a_byte(shard)
    found = survey_shards(shards)
    assert len(found.faults) == len(list(shards.glob("*/*.tar")))
    assert (found.num_clips, found.clip, found.sheet.picture) == (0, None, None)
    assert "No clip could be shown" in render_survey(found)
    assert "no shard is whole" in terminal_lines(found)


def test_a_copied_shard_in_the_other_split_is_twice_and_makes_the_splits_one(shards: Path):
    shard = train_shards(shards)[0]
    for path in (shard, sidecar_path(shard)):
        shutil.copy(path, shards / "heldout" / f"000042{path.suffix}")
    assert faults_of(shards) == [("heldout/000042.tar", "there twice"), ("train and heldout", "not apart")]


def test_a_shard_of_another_clip_is_a_fault(shards: Path):
    other = ClipSpec(**(CLIP_SPEC.as_dict() | {"resolution": 64}))
    members = {"mp4": b"", "flac": b"", "json": b"{}"}
    write_shard(shards / "train" / "000042.tar", [FinishedClip("tiny/x/000000-0", 10, members)], clip=other)
    assert faults_of(shards) == [("train/000042.tar", "another clip")]


def test_a_clip_without_its_sound_is_a_fault(shards: Path):
    write_shard(
        shards / "train" / "000042.tar",
        [FinishedClip("tiny/x/000000-0", 10, {"mp4": b"", "json": b"{}"})],
        clip=CLIP_SPEC,
    )
    assert faults_of(shards) == [("train/000042.tar", "member missing")]


def test_a_clip_that_does_not_decode_is_a_fault_though_its_bytes_are_as_written(shards: Path):
    members = {"mp4": b"no video", "flac": b"no sound", "json": b"{}"}
    write_shard(shards / "train" / "000042.tar", [FinishedClip("tiny/x/000000-0", 10, members)], clip=CLIP_SPEC)
    found = survey_shards(shards)
    assert [(fault.where, fault.reason) for fault in found.faults] == [("train/000042.tar", "undecodable")]
    assert "tiny/x/000000-0" in found.faults[0].told
    assert found.sound.num_unreadable == 1


def test_a_shard_that_lacks_a_clip_of_the_ledger_is_a_fault(shards: Path):
    shard = train_shards(shards)[0]
    name = f"train/{shard.stem}"
    rows = [row for row in read_ledger(shards) if row.shard == name]
    kept = next(row for row in rows if row.kind == CLIP)
    further = Row(**(kept.as_dict() | {"id": "tiny/person/000099-0"}))
    write_piece(shards, name, [further, *rows])
    assert faults_of(shards) == [(f"train/{shard.name}", "not as in the ledger")]


def test_a_damaged_ledger_is_a_fault_and_the_shards_are_still_read(shards: Path):
    piece_path(shards, f"train/{train_shards(shards)[0].stem}").write_bytes(b"x")
    found = survey_shards(shards)
    assert [fault.where for fault in found.faults] == ["ledger"]
    assert found.num_clips == 4


def with_file_of_another(shards: Path, name: str, split: str) -> None:
    """Put into the ledger a source of this split whose file and stretch are those of a training source, and that source's first clip."""
    rows = list(read_ledger(shards))
    source = next(row for row in rows if row.kind == SOURCE and row.split == "train" and row.verdict == KEPT)
    clip = next(row for row in rows if row.kind == CLIP and row.source == source.source)
    shard = f"{split}/000042"
    key = f"tiny/{name}/000000-0"
    place = {"source": name, "split": split, "shard": shard}
    write_piece(shards, shard, [replace(clip, id=key, **place), replace(source, **place)])
    write_shard(
        shards / f"{shard}.tar", [FinishedClip(key, clip.num_frames or 0, first_members(shards))], clip=CLIP_SPEC
    )


def first_members(shards: Path) -> dict[str, bytes]:
    """Sound, picture and facts of the first training clip."""
    shard = train_shards(shards)[0]
    stored, content = json.loads(sidecar_path(shard).read_text())["clips"][0], shard.read_bytes()
    return {suffix: content[first : first + size] for suffix, (first, size, _) in stored["members"].items()}


def test_the_same_file_under_two_names_is_told_by_terminal_and_page_and_breaks_nothing(
    shards: Path, found: ShardSurvey
):
    assert any(line.endswith(": 0 stand under several names with the same stretch") for line in terminal_lines(found))
    with_file_of_another(shards, "a copy", "train")
    second = survey_shards(shards)
    assert second.faults == []
    (told,) = [line for line in terminal_lines(second) if line.startswith("same file: ")]
    assert told.endswith(", a copy")
    assert told in render_survey(second)


def test_many_groups_of_the_same_file_are_cut_and_counted(found: ShardSurvey):
    assert found.ledger is not None
    shared = SharedFiles(duplicates=[[f"{group}/{name}" for name in range(6)] for group in range(7)], in_both_splits=[])
    lines = terminal_lines(replace(found, ledger=replace(found.ledger, shared_files=shared)))
    told = [line for line in lines if line.startswith("same file: ")]
    assert told[0] == "same file: 0/0, 0/1, 0/2, 0/3 and 2 more"
    assert (len(told), told[-1]) == (6, "same file: 2 more")


def test_the_same_file_in_both_splits_is_a_fault_under_whatever_names(shards: Path):
    with_file_of_another(shards, "a copy", "heldout")
    found = survey_shards(shards)
    assert [(fault.where, fault.reason) for fault in found.faults] == [("train and heldout", "not apart")]
    assert "1 files stand in both under several names: " in found.faults[0].told
    assert " = a copy; prepare into an empty folder" in found.faults[0].told


def with_sound_of_another(shards: Path, key: str) -> None:
    """Put a clip under this key into a shard of its own, with sound and picture of the first training clip."""
    num_frames = int(read_sidecar(train_shards(shards)[0]).num_frames[0])
    write_shard(shards / "train" / "000042.tar", [FinishedClip(key, num_frames, first_members(shards))], clip=CLIP_SPEC)


def test_the_same_sound_under_two_sources_is_told_and_breaks_nothing(shards: Path):
    with_sound_of_another(shards, "tiny/somebody else/000000-0")
    found = survey_shards(shards)
    assert found.faults == []
    assert [sorted(group)[-1] for group in found.shared_sounds] == ["tiny/somebody else/000000-0"]
    assert any(line.startswith("same sound: ") for line in terminal_lines(found))
    assert any("sounds of 5 of 5 clips compared" in line for line in terminal_lines(found))


def test_two_people_of_one_source_may_share_its_sound(shards: Path, found: ShardSurvey):
    with_sound_of_another(shards, found.sheet.ids[0].removesuffix("-0") + "-1")
    second = survey_shards(shards)
    assert second.shared_sounds == []
    assert (second.splits[0].num_people, second.splits[0].num_sources) == (4, 3)


def test_a_folder_that_is_none_is_refused_with_the_way_out(tmp_path: Path):
    with pytest.raises(MissingShards, match=r"python -m lipsync_lightning\.prepare recipe="):
        survey_shards(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(MissingShards, match="inspect the folder that `prepare` wrote as out="):
        survey_shards(tmp_path)


def test_the_page_draws_every_measured_score_and_names_no_other_file(shards: Path):
    for piece in (shards / "ledger").iterdir():
        rows = read_ledger(shards)
        stem = piece.stem.replace("-", "/")
        scored = [
            Row(**(row.as_dict() | {"scores": {"sync_offset": 2.0, "visual_quality": 50.5}}))
            for row in rows
            if row.shard == stem
        ]
        write_piece(shards, stem, scored)
    page = render_survey(survey_shards(shards))
    assert page.count("<svg") == 3  # lengths and two scores
    assert "sync offset (frames)" in page
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page)
    assert not re.search(r"https?://(?!www\.w3\.org)", page)


def test_names_cannot_become_markup(shards: Path):
    with_sound_of_another(shards, "tiny/<script>/000000-0")
    assert "<script>" not in render_survey(survey_shards(shards))


def test_plain_tables_are_aligned():
    table = Table(["step", "times"], [["check", "7"], ["sync", "1234"]], 1, ["total", "1241"])
    assert aligned(table) == ["step   times", "check      7", "sync    1234", "total   1241"]


def test_inspecting_asks_for_no_source_and_prints_an_aligned_table(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    command_line = CommandLine(tmp_path, monkeypatch, capfd)
    shown = command_line.run(main, f"inspect={shards}")
    assert re.search(r"^train +\d +0 +3 +3 +3 +0\.00 ", shown, re.MULTILINE)
    assert "ledger: 5 sources: 4 kept, 1 rejected, 0 failed; 4 clips kept, 0 rejected" in shown
    assert "BROKEN" not in shown


def test_broken_shards_end_with_status_1_after_everything_was_told(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    flip_a_byte(train_shards(shards)[0])
    with pytest.raises(BrokenShard, match="1 faults, the first is at train/"):
        inspect_shards(shards)
    assert re.search(r"^BROKEN train/\d+\.tar: corrupt: ", capfd.readouterr().out, re.MULTILINE)
    assert "broken" in (shards / "inspection" / "index.html").read_text()
    assert "1 faults, the first is at train" in CommandLine(tmp_path, monkeypatch, capfd).refusal(
        main, f"inspect={shards}"
    )
