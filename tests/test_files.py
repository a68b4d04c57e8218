import os
import stat
from pathlib import Path

import pytest

from lipsync_lightning import files
from lipsync_lightning.errors import WouldOverwrite
from lipsync_lightning.files import weights_dir, whole_file, whole_folder, write_atomically

CONTENT = "config.json"


def write(out: Path, content: str) -> None:
    with whole_folder(out) as folder:
        (folder / CONTENT).write_text(content)


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def fail_writing(part: Path) -> None:
    part.write_text("half")
    raise RuntimeError


def fail_halfway(folder: Path, error: type[BaseException]) -> None:
    (folder / CONTENT).write_text("half")
    raise error


def test_a_folder_appears_when_it_is_whole_and_not_before(tmp_path):
    out = tmp_path / "deep" / "export"
    with whole_folder(out) as folder:
        (folder / CONTENT).touch()
        assert not out.exists()
    assert visible(out) == [CONTENT]
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_former_folder_as_it_was_and_nothing_beside_it(tmp_path, error):
    write(tmp_path / "export", "good")
    with pytest.raises(error), whole_folder(tmp_path / "export") as folder:
        fail_halfway(folder, error)
    assert (tmp_path / "export" / CONTENT).read_text() == "good"
    assert list(tmp_path.iterdir()) == [tmp_path / "export"]


def test_a_former_folder_is_replaced_with_all_that_was_written_in_it(tmp_path):
    with whole_folder(tmp_path / "export") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "old.json").touch()
    write(tmp_path / "export", "new")
    assert visible(tmp_path / "export") == [CONTENT]
    assert (tmp_path / "export" / CONTENT).read_text() == "new"


def test_a_former_folder_to_which_somebody_added_a_file_is_refused_by_its_name(tmp_path):
    write(tmp_path / "export", "old")
    (tmp_path / "export" / "deep").mkdir()
    (tmp_path / "export" / "deep" / "me.png").touch()
    with pytest.raises(WouldOverwrite, match=r"files that were not written here, such as deep/me\.png"):
        write(tmp_path / "export", "new")
    assert (tmp_path / "export" / CONTENT).read_text() == "old"


def test_somebody_elses_folder_or_file_is_refused_before_any_work_whatever_it_is_called(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / CONTENT).write_text("{}")
    (tmp_path / "file").touch()
    for listing in (None, "no list"):
        if listing is not None:
            (tmp_path / "mine" / ".lipsync_lightning.json").write_text(listing)
        for out, reason in (("mine", r"such as (config|\.lipsync)"), ("file", "is a file")):
            with pytest.raises(WouldOverwrite, match=reason), whole_folder(tmp_path / out):
                pytest.fail("the block ran")
    assert (tmp_path / "mine" / CONTENT).read_text() == "{}"


def test_a_link_to_another_disk_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    for link, target in (("to empty", "empty"), ("to nothing yet", "new")):
        (tmp_path / link).symlink_to(tmp_path / "disk" / target)
    (tmp_path / "disk" / "empty").mkdir()
    for link, target in (("to empty", "empty"), ("to nothing yet", "new")):
        write(tmp_path / link, "x")
        assert (tmp_path / link).is_symlink()
        assert (tmp_path / "disk" / target / CONTENT).read_text() == "x"
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["empty", "new"]


def test_a_process_that_died_while_it_swapped_folders_lost_nothing(tmp_path):
    write(tmp_path / "export", "old")
    (tmp_path / "export").rename(tmp_path / ".export.lipsync-former")
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "export") as folder:
        fail_halfway(folder, RuntimeError)
    assert (tmp_path / "export" / CONTENT).read_text() == "old"


def test_files_are_readable_to_whom_other_new_files_are(tmp_path):
    with whole_folder(tmp_path / "export") as folder:
        (folder / CONTENT).touch(mode=0o600)
    (tmp_path / "other").touch()
    assert (tmp_path / "export" / CONTENT).stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_file_appears_when_it_is_whole_and_a_failure_leaves_what_was_there(tmp_path):
    with pytest.raises(RuntimeError), whole_file(tmp_path / "a.pt") as part:
        fail_writing(part)
    assert list(tmp_path.iterdir()) == []
    with whole_file(tmp_path / "a.pt") as part:
        part.write_text("whole")
        assert not (tmp_path / "a.pt").exists()
    assert (tmp_path / "a.pt").read_text() == "whole"
    with pytest.raises(RuntimeError), whole_file(tmp_path / "a.pt") as part:
        fail_writing(part)
    assert (tmp_path / "a.pt").read_text() == "whole"


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "old").write_text("old")
    for name in ("old", "new"):
        (tmp_path / name).symlink_to(Path("disk") / name)
        write_atomically(tmp_path / name, b"written")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "disk" / name).read_text() == "written"
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["new", "old"]


def test_what_is_no_file_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name, told in (
        ("pipe", "a device or a pipe, which is never replaced"),
        ("link", "a device"),
        (".", "a folder"),
    ):
        with pytest.raises(WouldOverwrite, match=told), whole_file(tmp_path / name):
            pytest.fail("the block ran")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


def test_what_is_written_to_the_null_device_is_thrown_away(tmp_path):
    before = Path(os.devnull).stat()
    (tmp_path / "link").symlink_to(os.devnull)
    for path in (Path(os.devnull), tmp_path / "link"):
        with whole_file(path) as part:
            part.write_text("much")
        assert not part.exists()
    assert Path(os.devnull).stat().st_ino == before.st_ino
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_two_writers_of_one_file_and_somebody_s_part_do_not_meet(tmp_path):
    (tmp_path / "a.part").write_text("half a download")
    with whole_file(tmp_path / "a") as one, whole_file(tmp_path / "a") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "a").read_text() == "one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.part"]
    assert (tmp_path / "a.part").read_text() == "half a download"


def test_a_file_has_the_mode_that_any_new_one_has_and_keeps_what_it_had(tmp_path):
    (tmp_path / "other").touch()
    write_atomically(tmp_path / "a", b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "other").stat().st_mode
    (tmp_path / "a").chmod(0o640)
    write_atomically(tmp_path / "a", b"")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_names_as_long_as_the_system_takes_are_written(tmp_path):
    for name in ("a" * 255, "漢" * 85):
        write_atomically(tmp_path / name, b"")
        assert (tmp_path / name).is_file()


def test_weights_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LIPSYNC_WEIGHTS", "given")
    assert weights_dir() == Path("given")
    monkeypatch.delenv("LIPSYNC_WEIGHTS")
    (tmp_path / "checkout").mkdir()
    monkeypatch.setattr(files, "CONF_DIR", tmp_path / "checkout" / "conf")
    assert weights_dir() == tmp_path / "home" / ".cache" / "lipsync_lightning" / "weights"
    (tmp_path / "checkout" / "pyproject.toml").touch()
    assert weights_dir() == tmp_path / "checkout" / "weights"
    (tmp_path / "weights").mkdir()
    assert weights_dir() == Path("weights")
