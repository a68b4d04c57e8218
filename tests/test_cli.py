import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import InstantiationException

from lipsync_lightning.cli import build, one_sentence
from lipsync_lightning.composing import quoted
from lipsync_lightning.errors import BrokenShard


def test_our_own_error_is_found_behind_what_wraps_it():
    config = {"_target_": "lipsync_lightning.clip.ClipSpec.from_dict", "values": {"fps": 25}, "source": "the file"}
    with pytest.raises(InstantiationException) as caught:
        build(config)
    assert one_sentence(caught.value).startswith("the file: a clip needs the keys ['fps', 'mel_hz'")


def test_a_misspelt_key_is_named():
    with pytest.raises(InstantiationException) as caught:
        build({"_target_": "lipsync_lightning.clip.ClipSpec", "fsp": 25})
    message = one_sentence(caught.value)
    assert "ClipSpec" in message
    assert "fsp" in message
    assert "\n" not in message


def test_a_workers_traceback_is_left_out():
    told = (
        "Caught BrokenShard in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File ...\n"
    )
    error = BrokenShard(told + "lipsync_lightning.errors.BrokenShard: d/0: no mp4\nin it; run prepare\n")
    assert one_sentence(error) == "d/0: no mp4 in it; run prepare"


@pytest.mark.parametrize("path", ["runs/Gespräch 1 – ä.mp4", "a & b#1.mp4", "плёнка.mp4", "~/x;y.mp4"])
def test_paths_with_any_letters_reach_the_configuration_as_they_are(path: str):
    (override,) = OverridesParser.create().parse_overrides([quoted(f"video={path}")])
    assert override.value() == path


@pytest.mark.parametrize(
    "argument",
    ["a=1,2", "x=[1,2]", "y='ä'", "+experiment=demo/stage1", "runs/a b.mp4", "v=plain path.mp4", "-m", "~a.b"],
)
def test_what_hydra_understands_is_left_alone(argument: str):
    assert quoted(argument) == argument
