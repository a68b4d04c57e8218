import pytest
from omegaconf import OmegaConf

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.files import CONF_DIR
from lipsync_lightning.preparation.split import Split, SplitByFolder, SplitByHash, sides

NAMES = [f"person_{person}/clip_{clip}.mp4" for person in range(6) for clip in range(2)]
# Held out, by hand: printf 'lipsync-test-1:person_%d' | sha256sum, the two smallest are 2 and 5.


def held(split: Split, names: list[str], **planned: bool) -> set[str]:
    return {name for name, is_held_out in sides(split, names, planned).items() if is_held_out}


def test_a_hash_split_holds_out_whole_identities_whatever_else_is_there():
    split = SplitByHash(num_heldout=2, identity="person_[0-9]+")
    heldout = held(split, NAMES)
    assert len({name.split("/")[0] for name in heldout}) == 2
    assert len(heldout) == 4
    assert held(split, NAMES[::-1]) == heldout
    kept = [name for name in NAMES if name not in heldout][2:]
    assert held(split, sorted(kept + list(heldout))) == heldout


def test_a_hash_split_is_the_same_on_every_machine():
    split = SplitByHash(num_heldout=2, identity="person_[0-9]+")
    assert held(split, NAMES) == {f"person_{person}/clip_{clip}.mp4" for person in (2, 5) for clip in range(2)}
    assert held(SplitByHash(num_heldout=0, identity=".+"), NAMES) == set()


def test_an_identity_pattern_that_does_not_match_is_refused():
    with pytest.raises(BadConfig, match=r"'speaker\\d' matches nothing in 'person_0/clip_0.mp4'.*split.identity"):
        held(SplitByHash(num_heldout=1, identity=r"speaker\d"), NAMES)


def test_a_folder_split_looks_at_the_top_folder_alone():
    names = ["heldout/a", "train/heldout/b", "heldout_too/c"]
    assert held(SplitByFolder(heldout_folder="heldout"), names) == {"heldout/a"}


def test_people_are_chosen_by_their_videos_and_all_their_files_go_with_them():
    split = SplitByHash(num_heldout=1, identity="^[^/]+")
    names = ["ann/a.mts", "ann/notes.txt", "readme.md", "zoe/only.txt"]
    assert held(split, names) == {"ann/a.mts", "ann/notes.txt"}, "a folder without any video would be a poor test"
    assert held(SplitByHash(num_heldout=1, identity="^person"), ["person1.mp4", "readme.md"]) == {"person1.mp4"}


def test_who_was_planned_for_a_side_stays_there_with_all_that_comes_later():
    split = SplitByHash(num_heldout=1, identity="person_[0-9]+")
    (rightly,) = {name.split("/")[0] for name in held(split, NAMES)}
    other = next(name for name in NAMES if not name.startswith(rightly))
    planned = {other: True, f"{rightly}/clip_0.mp4": False}
    side_of = sides(split, [*NAMES, f"{rightly}/clip_9.mp4"], planned)
    assert not side_of[f"{rightly}/clip_9.mp4"], "this person is being trained on"
    assert {name.split("/")[0] for name, is_held_out in side_of.items() if is_held_out} == {other.split("/")[0]}


@pytest.mark.parametrize(
    ("recipe", "name", "person"),
    [
        ("hdtf", "WDA/AmyKlobuchar0_0", "AmyKlobuchar"),
        ("hdtf", "WDA/LucilleRoybal-Allard_12", "LucilleRoybal-Allard"),
        ("hdtf", "RD/Radio11_1", "Radio"),
        ("voxceleb2", "id00012/21Uxsk56VDQ/00001", "id00012"),
    ],
)
def test_the_data_sets_hold_out_people(recipe: str, name: str, person: str):
    split = OmegaConf.load(CONF_DIR / "preparation" / "recipe" / f"{recipe}.yaml").split
    assert SplitByHash(num_heldout=split.num_heldout, identity=split.identity).identity_of(name) == person


def test_nobody_left_to_train_on_is_told_and_less_than_nobody_refused():
    with pytest.warns(UserWarning, match=r"num_heldout=9 holds out all 2 identities: nothing is left to train on"):
        assert SplitByHash(num_heldout=9, identity=".+").heldout({"a", "b"}) == {"a", "b"}
    with pytest.raises(BadConfig, match="num_heldout=-1"):
        SplitByHash(num_heldout=-1, identity=".+")
