from pathlib import Path

import pytest

from lipsync_lightning.errors import BrokenShard, WouldOverwrite
from lipsync_lightning.preparation import plan
from lipsync_lightning.preparation.plan import Plan, duplicates_among
from lipsync_lightning.preparation.sources import Source

IDENTITY = {"name": "tiny", "clip": {"fps": 25}}


def test_every_source_stands_in_one_shard_of_its_split():
    planned = Plan(identity=IDENTITY).extended("edcba", {"b", "d"}, {}, 2)
    assert {shard.name: shard.sources for shard in planned.shards} == {
        "train/000000": ("a", "c"),
        "train/000001": ("e",),
        "heldout/000000": ("b", "d"),
    }
    assert planned.split_of == {"a": "train", "c": "train", "e": "train", "b": "heldout", "d": "heldout"}


def test_what_is_added_later_goes_to_new_shards_and_moves_nothing(tmp_path: Path):
    before = Plan(identity=IDENTITY).extended("abc", set(), {}, 2)
    before.save(tmp_path)
    after = Plan.load(tmp_path, IDENTITY).extended("A", set(), {"A": "a"}, 2)
    assert list(after.shards[:2]) == list(before.shards)
    assert (after.shards[2].name, after.shards[2].sources, after.duplicates) == ("train/000002", ("A",), {"A": "a"})


def test_the_folder_of_another_data_set_is_refused(tmp_path: Path):
    Plan(identity=IDENTITY).save(tmp_path)
    with pytest.raises(WouldOverwrite, match=r"clip .*25.* there, .*30.* asked for.*choose another out="):
        Plan.load(tmp_path, {"name": "tiny", "clip": {"fps": 30}})


def test_shards_without_a_plan_are_refused_and_so_is_a_plan_that_is_none(tmp_path: Path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "000000.tar").touch()
    with pytest.raises(WouldOverwrite, match="were not planned"):
        Plan.load(tmp_path, IDENTITY)
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(BrokenShard, match="is no plan"):
        Plan.load(tmp_path, IDENTITY)


def files(folder: Path, **contents: bytes) -> list[Source]:
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [Source(name=name, video=folder / name) for name in contents]


def test_the_same_bytes_under_another_name_are_a_duplicate_of_the_first(tmp_path: Path):
    long = b"x" * 100_000
    sources = files(tmp_path, a=long, b=long + b"1", c=long + b"2", d=long, e=b"", f=long + b"2", g=long)
    assert duplicates_among([], sources) == {"d": "a", "g": "a", "f": "c"}


def test_only_what_is_unclear_is_a_duplicate_and_what_is_settled_comes_first(tmp_path: Path):
    a, b, c, d = files(tmp_path, a=b"same", b=b"same", c=b"same", d=b"else")
    assert duplicates_among([c, b], [a, d]) == {"a": "c"}


def test_files_are_read_only_where_an_unclear_one_has_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settled = files(tmp_path, a=b"1111", b=b"2222", c=b"33333")
    read: list[str] = []
    head = plan._head
    monkeypatch.setattr(plan, "_head", lambda source: read.append(source.name) or head(source))
    assert duplicates_among(settled, files(tmp_path, d=b"44444", e=b"666666")) == {}
    assert read == ["c", "d"]


def test_two_stretches_of_one_video_are_no_duplicates_and_missing_files_are_none(tmp_path: Path):
    (first,) = files(tmp_path, a=b"content")
    sources = [first, Source(name="b", video=first.video, start_s=2.0), Source(name="c", video=tmp_path / "gone")]
    assert duplicates_among([], [*sources, Source(name="d", video=tmp_path / "gone")]) == {}
