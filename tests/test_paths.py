from pathlib import Path

import pytest

from lipsync_lightning.errors import WouldOverwrite
from lipsync_lightning.paths import whole_folder

MARKER = "config.json"


def write(out: Path, content: str) -> None:
    with whole_folder(out, MARKER) as folder:
        (folder / MARKER).write_text(content)


def fail_halfway(folder: Path, error: type[BaseException]) -> None:
    (folder / MARKER).write_text("half")
    raise error


def test_a_folder_appears_when_it_is_whole_and_not_before(tmp_path):
    out = tmp_path / "deep" / "export"
    with whole_folder(out, MARKER) as folder:
        (folder / MARKER).touch()
        assert not out.exists()
    assert [path.name for path in out.iterdir()] == [MARKER]
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_former_folder_as_it_was_and_nothing_beside_it(tmp_path, error):
    write(tmp_path / "export", "good")
    with pytest.raises(error), whole_folder(tmp_path / "export", MARKER) as folder:
        fail_halfway(folder, error)
    assert (tmp_path / "export" / MARKER).read_text() == "good"
    assert list(tmp_path.iterdir()) == [tmp_path / "export"]


def test_a_former_folder_of_the_kind_is_replaced_with_all_that_was_in_it(tmp_path):
    write(tmp_path / "export", "old")
    (tmp_path / "export" / "left over").touch()
    write(tmp_path / "export", "new")
    assert [path.name for path in (tmp_path / "export").iterdir()] == [MARKER]
    assert (tmp_path / "export" / MARKER).read_text() == "new"


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "export").mkdir()
    write(tmp_path / "export", "new")
    assert (tmp_path / "export" / MARKER).read_text() == "new"


def test_other_folders_and_files_are_refused_before_any_work(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.png").touch()
    (tmp_path / "file").touch()
    for out in (tmp_path / "photos", tmp_path / "file"):
        with pytest.raises(WouldOverwrite, match="holds something else"), whole_folder(out, MARKER):
            pytest.fail("the block ran")
    assert (tmp_path / "photos" / "me.png").exists()
