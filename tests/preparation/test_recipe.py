import re
from dataclasses import replace
from pathlib import Path

import pytest

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadConfig
from lipsync_lightning.preparation.filters.sync import SyncFilter
from lipsync_lightning.preparation.recipe import clip_id
from lipsync_lightning.shards.format import require_safe_name
from simple_scorers import BrightnessScorer
from tiny_recipe import folder_recipe


def test_ids_have_no_dots_and_tell_clips_apart():
    assert re.search(r"\.", clip_id("hdtf", "a.b/c..d.mp4", 3, 0)) is None
    names = ["a.b", "a%2Eb", "a%252Eb", "a%b", "a%25b", "a", "a/000000-0", "a\\b", "a%5Cb"]
    ids = {clip_id("d", name, frame, person) for name in names for frame in range(2) for person in range(2)}
    assert len(ids) == 4 * len(names)
    for each in ids:
        require_safe_name(each, "mp4", "here")


def test_limits_in_frames_hold_a_whole_window(tmp_path: Path, tiny_clip: ClipSpec):
    recipe = folder_recipe(tmp_path, min_seconds=0.5, max_seconds=1.0)
    assert (recipe.shortest(tiny_clip), recipe.longest(tiny_clip)) == (13, 25)
    recipe = folder_recipe(tmp_path, min_seconds=0.1, max_seconds=0.1)
    assert (recipe.shortest(tiny_clip), recipe.longest(tiny_clip)) == (tiny_clip.num_frames, tiny_clip.num_frames)


def test_the_rule_of_a_recipe_changes_with_every_setting_that_decides(tmp_path: Path, tiny_clip: ClipSpec):
    recipe = folder_recipe(tmp_path, num_heldout=1)
    rule = recipe.rule(tiny_clip)
    sync = SyncFilter(scorer=BrightnessScorer(), clip=tiny_clip, min_confidence=3, max_offset=6)
    for other, changed in (
        (replace(recipe, max_seconds=2.0), "frames"),
        (replace(recipe, check=replace(recipe.check, min_fps=20)), "check"),
        (replace(recipe, sync=sync), "sync"),
        (folder_recipe(tmp_path, num_heldout=2), "split"),
        (replace(recipe, heldout_end=0.1), "heldout_end"),
    ):
        assert [name for name, value in other.rule(tiny_clip).items() if value != rule[name]] == [changed]
    assert replace(recipe, sync=sync).rule(tiny_clip)["sync"]["scorer"] == "brightness"


@pytest.mark.parametrize("limits", [{"min_seconds": 0}, {"min_seconds": 2, "max_seconds": 1}])
def test_limits_that_contradict_each_other_are_refused(tmp_path: Path, limits: dict[str, float]):
    with pytest.raises(BadConfig, match="need 0 < min_seconds <= max_seconds"):
        folder_recipe(tmp_path, **limits)


def test_a_share_of_nothing_or_of_all_is_refused(tmp_path: Path):
    for share in (0.0, 1.0, 10.0):
        with pytest.raises(BadConfig, match=r"heldout_end=.* between 0 and 1"):
            folder_recipe(tmp_path, heldout_end=share)


@pytest.mark.parametrize("name", ["a/b", "a.b", "", "../x"])
def test_a_name_that_cannot_begin_an_id_is_refused(tmp_path: Path, name: str):
    with pytest.raises(BadConfig, match="begins every clip's id"):
        folder_recipe(tmp_path, name=name)
