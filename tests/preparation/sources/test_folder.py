import logging
import os
from pathlib import Path

import pytest

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.preparation.sources.folder import FolderSources
from tiny_media import sound_of, write_video


def names_in(root: Path) -> list[str]:
    return [source.name for source in FolderSources(root=str(root)).all()]


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_sources_are_sorted_without_hidden_files_and_sidecars(tmp_path: Path):
    listed = ["a.mp4", "b/2 ä.mp4", "b/💬.mov", "c.d.e/f.mp4", "no suffix"]
    touch(*(tmp_path / name for name in (*reversed(listed), "a.json", ".hidden.mp4", ".git/x.mp4")))
    assert names_in(tmp_path) == listed
    assert FolderSources(root=str(tmp_path)).all()[0].video == tmp_path / "a.mp4"


def test_an_empty_or_missing_folder_is_refused(tmp_path: Path):
    with pytest.raises(BadMedia, match="holds no files"):
        names_in(tmp_path)
    with pytest.raises(BadMedia, match="is not a folder"):
        names_in(tmp_path / "nowhere")


def test_pipes_and_links_that_lead_nowhere_or_in_a_loop_are_sources_and_are_not_opened(tmp_path: Path):
    (tmp_path / "nowhere.mp4").symlink_to("gone.mp4")
    (tmp_path / "one.mp4").symlink_to("other.mp4")
    (tmp_path / "other.mp4").symlink_to("one.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "to_pipe.mp4").symlink_to("pipe.mp4")
    assert names_in(tmp_path) == ["nowhere.mp4", "one.mp4", "other.mp4", "pipe.mp4", "to_pipe.mp4"]


def test_a_folder_behind_a_link_is_followed_once_and_keeps_its_own_name(tmp_path: Path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    touch(root / "z" / "inside.mp4", outside / "deep" / "far.mp4")
    (root / "a_link").symlink_to(root / "z")
    (root / "b_link").symlink_to(outside)
    (root / "c_link").symlink_to(outside)
    (root / "d_link").symlink_to(outside / "deep")
    assert names_in(root) == ["a_link", "b_link/deep/far.mp4", "c_link", "d_link", "z/inside.mp4"]


def test_folders_linked_in_a_loop_end(tmp_path: Path):
    root = tmp_path / "root"
    touch(root / "a" / "x.mp4")
    (root / "a" / "up").symlink_to("..")
    (root / "self").symlink_to(".")
    (root / "above").symlink_to(tmp_path)
    assert names_in(root) == ["a/up", "a/x.mp4", "above/root", "self"]


def test_a_folder_that_cannot_be_read_is_a_source_and_the_rest_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    touch(tmp_path / "a.mp4", tmp_path / "locked" / "x.mp4", tmp_path / "open" / "y.mp4")
    scandir = os.scandir

    def guarded(folder: Path):
        if Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    assert names_in(tmp_path) == ["a.mp4", "locked", "open/y.mp4"]
    with pytest.raises(BadMedia, match="cannot be read"):
        names_in(tmp_path / "locked")


def test_names_that_are_no_utf_8_are_written_so_that_any_file_can_hold_them(tmp_path: Path):
    touch(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")), tmp_path / r"caf\xe9.mp4")
    listed = FolderSources(root=str(tmp_path)).all()
    assert {source.name for source in listed} == {r"caf\xe9.mp4", r"caf\\xe9.mp4"}
    assert all(source.name.encode() and source.name.isprintable() for source in listed)
    assert all(source.video.read_bytes() == b"" for source in listed)


def test_the_sound_of_a_silent_video_may_lie_beside_it(tmp_path: Path):
    write_video(tmp_path / "b/talk.1.mp4", 3, None)
    touch(tmp_path / "b/talk.1.wav", tmp_path / "b/other.WAV", tmp_path / "talk.1.wav", tmp_path / "b/talk.1.txt")
    found = {source.name: source.audio for source in FolderSources(root=str(tmp_path)).all()}
    expected = {
        "b/talk.1.mp4": tmp_path / "b/talk.1.wav",
        "b/other.WAV": None,
        "talk.1.wav": None,
        "b/talk.1.txt": None,
    }
    assert found == expected


def test_a_video_keeps_its_own_sound_and_what_lies_beside_is_told_and_no_source(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    write_video(tmp_path / "talk.mp4", 3, sound_of(3))
    touch(tmp_path / "talk.mp3", tmp_path / "talk.m4a")
    with caplog.at_level(logging.WARNING):
        (source,) = FolderSources(root=str(tmp_path)).all()
    assert (source.name, source.audio) == ("talk.mp4", None)
    assert "left out 2 sound files beside videos that have sound of their own" in caplog.text


def test_two_sounds_of_one_silent_video_are_refused(tmp_path: Path):
    write_video(tmp_path / "talk.mp4", 3, None)
    touch(tmp_path / "talk.wav", tmp_path / "talk.flac")
    with pytest.raises(BadMedia, match=r"talk\.mp4 is silent and has 2 sounds, talk\.flac and talk\.wav.*keep one"):
        names_in(tmp_path)


def test_a_broken_video_and_the_sound_beside_it_are_both_told_of(tmp_path: Path):
    touch(tmp_path / "talk.mp4", tmp_path / "talk.wav")
    assert names_in(tmp_path) == ["talk.mp4", "talk.wav"]
