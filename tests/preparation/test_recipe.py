from pathlib import Path

import pytest

from lipsync_lightning.errors import BadConfig, BadMedia
from lipsync_lightning.preparation.recipe import SplitByFolder, SplitByHash, may_be_video, sample_id
from tiny_media import folder_recipe

NAMES = [f"person_{person}/clip_{clip}.mp4" for person in range(6) for clip in range(2)]


def test_ids_have_no_dots_even_if_the_data_set_has():
    assert "." not in sample_id("hdtf.v1", "a.b/c..d.mp4", 3)


def test_names_that_would_be_escaped_alike_get_different_ids():
    names = ["a.b", "a%2Eb", "a%252Eb", "a%b", "a%25b", "a", "a/0000"]
    ids = {sample_id("d", name, segment) for name in names for segment in range(2)}
    assert len(ids) == 2 * len(names)


def test_a_hash_split_holds_out_whole_identities_whatever_else_is_there():
    split = SplitByHash(num_heldout=2, identity="person_[0-9]+")
    heldout = split.heldout(NAMES)
    assert len({name.split("/")[0] for name in heldout}) == 2
    assert len(heldout) == 4
    assert split.heldout(NAMES[::-1]) == heldout
    kept = [name for name in NAMES if name not in heldout][2:]
    assert split.heldout(sorted(kept + list(heldout))) == heldout


def test_a_hash_split_is_the_same_on_every_machine():
    assert SplitByHash(num_heldout=2, identity="person_[0-9]+").heldout(NAMES) == {
        f"person_{person}/clip_{clip}.mp4" for person in EXPECTED_PEOPLE for clip in range(2)
    }


# By hand: printf 'lipsync-test-1:person_%d' | sha256sum, the two smallest of 0 to 5.
EXPECTED_PEOPLE = (2, 5)


def test_holding_out_none_holds_out_none():
    assert SplitByHash(num_heldout=0, identity=".+").heldout(NAMES) == set()


def test_an_identity_pattern_that_does_not_match_is_refused():
    with pytest.raises(BadConfig, match=r"matches nothing in 'person_0/clip_0.mp4'.*split.identity"):
        SplitByHash(num_heldout=1, identity="speaker").heldout(NAMES)


def test_a_folder_split_looks_at_the_top_folder_alone():
    assert SplitByFolder(heldout_folder="heldout").heldout(["heldout/a", "train/heldout/b", "heldout_too/c"]) == {"heldout/a"}


def test_sources_are_sorted_without_hidden_files_and_sidecars(tmp_path: Path):
    for name in ("b/2 ä.mp4", "a.mp4", "a.json", ".hidden.mp4", ".git/x.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert folder_recipe(tmp_path).sources() == ["a.mp4", "b/2 ä.mp4"]


def test_an_empty_or_missing_source_folder_is_refused(tmp_path: Path):
    with pytest.raises(BadMedia, match="holds no files"):
        folder_recipe(tmp_path).sources()
    with pytest.raises(BadMedia, match="is not a folder"):
        folder_recipe(tmp_path / "nowhere").sources()


def test_lengths_that_contradict_each_other_are_refused(tmp_path: Path):
    with pytest.raises(BadConfig, match="min_seconds <= max_seconds"):
        folder_recipe(tmp_path, min_seconds=3, max_seconds=2)


@pytest.mark.parametrize(
    ("name", "expected"), [("a.mp4", True), ("b/c.MOV", True), ("no suffix", True), ("speech.wav", False), ("README.md", False)]
)
def test_only_what_may_be_a_video_can_be_held_out(name: str, expected: bool):
    assert may_be_video(name) is expected
