from pathlib import Path

import pytest

from lipsync_lightning.errors import BrokenShard, WouldOverwrite
from lipsync_lightning.preparation.plan import Plan

RULE = {"name": "tiny", "clip": {"fps": 25}}


def extended(plan: Plan, names: str, heldout: str = "") -> Plan:
    return plan.extended(dict(zip(names, names, strict=True)), {name: name in heldout for name in names}, 2)


def names_of(plan: Plan) -> dict[str, list[str]]:
    return {shard: list(members) for shard, members in plan.shards.items()}


def test_every_source_stands_in_one_shard_of_its_split():
    plan = extended(Plan(rule=RULE), "edcba", heldout="bd")
    assert names_of(plan) == {"train/000000": ["a", "c"], "train/000001": ["e"], "heldout/000000": ["b", "d"]}
    assert plan.is_heldout == {"a": False, "c": False, "e": False, "b": True, "d": True}


def test_what_is_added_later_goes_to_new_shards_and_moves_nothing(tmp_path: Path):
    before = extended(Plan(rule=RULE), "abc")
    before.save(tmp_path)
    assert Plan.load(tmp_path, RULE) == before
    after = extended(Plan.load(tmp_path, RULE), "Abc")
    assert names_of(after) == {**names_of(before), "train/000002": ["A"]}


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


def test_what_shows_the_same_bytes_is_a_duplicate_of_the_one_planned_first():
    shows: dict[str, str | None] = {"a": "1", "b": "2", "c": "1", "d": "1 2.0-3.0 s", "x": None, "y": None}
    plan = Plan(rule=RULE).extended(shows, {name: name == "a" for name in shows}, 9)
    assert plan.duplicate_of == {"a": "c"}, "training shards are planned first"
    plan = plan.extended({"0": "2"}, {"0": False}, 9)
    assert plan.duplicate_of == {"a": "c", "0": "b"}, "what stands in the plan stays"
    assert plan.extended({"b": "3"}, {}, 9).duplicate_of == {"a": "c"}, "a file may be replaced"
