from pathlib import Path

import pytest

from lipsync_lightning.errors import WouldOverwrite
from lipsync_lightning.files import whole_file, whole_folder

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
