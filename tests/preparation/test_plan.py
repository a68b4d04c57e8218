from pathlib import Path

import pytest

from lipsync_lightning.errors import BrokenShard, WouldOverwrite
from lipsync_lightning.preparation.plan import Plan, PlannedSource

RULE = {"name": "tiny", "clip": {"fps": 25}}


def planned(name: str, sha256: str | None = None, start_s: float = 0.0) -> PlannedSource:
    return PlannedSource(name=name, sha256=sha256, num_bytes=1, start_s=start_s, stop_s=None)


def extended(plan: Plan, names: str, heldout: str = "") -> Plan:
    return plan.extended([planned(name, name) for name in names], {name: name in heldout for name in names}, 2)


def names_of(plan: Plan) -> dict[str, list[str]]:
    return {shard.name: [source.name for source in shard.sources] for shard in plan.shards}


def test_every_source_stands_in_one_shard_of_its_split():
    plan = extended(Plan(rule=RULE), "edcba", heldout="bd")
    assert names_of(plan) == {"train/000000": ["a", "c"], "train/000001": ["e"], "heldout/000000": ["b", "d"]}
    assert plan.split_of == {"a": "train", "c": "train", "e": "train", "b": "heldout", "d": "heldout"}


def test_what_is_added_later_goes_to_new_shards_and_moves_nothing(tmp_path: Path):
    before = extended(Plan(rule=RULE), "abc")
    before.save(tmp_path)
    after = extended(Plan.load(tmp_path, RULE), "A")
    assert list(after.shards[:2]) == list(before.shards)
    assert names_of(after)["train/000002"] == ["A"]


def test_the_folder_of_another_recipe_is_refused(tmp_path: Path):
    Plan(rule=RULE).save(tmp_path)
    with pytest.raises(WouldOverwrite, match=r"clip: .*25.* there, .*30.* asked for.*choose another out="):
        Plan.load(tmp_path, {"name": "tiny", "clip": {"fps": 30}})


def test_shards_without_a_plan_are_refused_and_so_is_the_plan_of_an_older_version(tmp_path: Path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "000000.tar").touch()
    with pytest.raises(WouldOverwrite, match="without a plan"):
        Plan.load(tmp_path, RULE)
    (tmp_path / "plan.json").write_text('{"identity": {}, "shards": [], "duplicates": {}}')
    with pytest.raises(BrokenShard, match="is no plan of this version"):
        Plan.load(tmp_path, RULE)


def test_the_same_stretch_of_the_same_bytes_is_a_duplicate_of_the_one_planned_first():
    sources = [
        *(planned("a", "1"), planned("b", "2"), planned("c", "1"), planned("d", "1", start_s=2.0)),
        *(planned("unreadable", None), planned("unreadable too", None)),
    ]
    plan = Plan(rule=RULE).extended(sources, {source.name: source.name == "a" for source in sources}, 9)
    assert plan.duplicate_of == {"a": "c"}, "training shards are planned first"
    plan = plan.extended([planned("0", "2")], {"0": False}, 9)
    assert plan.duplicate_of == {"a": "c", "0": "b"}, "what stands in the plan stays"
