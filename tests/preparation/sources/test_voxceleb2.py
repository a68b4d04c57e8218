import logging
from pathlib import Path

import pytest

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.preparation.sources import Source
from lipsync_lightning.preparation.sources.voxceleb2 import VoxCeleb2Sources

UTTERANCES = ["id00012/21Uxsk56VDQ/00001", "id00012/21Uxsk56VDQ/00002", "id00012/_-aB/00003", "id08456/x.y/00010"]


def unpack(root: Path, suffix: str = ".mp4", utterances: list[str] = UTTERANCES) -> None:
    for name in utterances:
        path = root / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def sources_in(root: Path) -> list[Source]:
    return VoxCeleb2Sources(root=str(root)).all()


@pytest.mark.parametrize("place", ["", "mp4", "dev", "dev/mp4", "test/mp4"])
def test_names_are_the_same_wherever_the_archives_were_unpacked(tmp_path: Path, place: str):
    unpack(tmp_path / place)
    sources = sources_in(tmp_path)
    assert [source.name for source in sources] == UTTERANCES
    assert [source.video for source in sources] == [tmp_path / place / f"{name}.mp4" for name in UTTERANCES]
    assert {source.audio for source in sources} == {None}


@pytest.mark.parametrize(
    ("pictures", "sounds"), [("mp4", "aac"), ("dev/mp4", "dev/aac"), ("dev", "dev/aac"), ("", "aac")]
)
def test_sound_is_taken_from_the_parallel_tree_where_it_is(tmp_path: Path, pictures: str, sounds: str):
    unpack(tmp_path / pictures)
    unpack(tmp_path / sounds, ".m4a", UTTERANCES[:3])
    audio = [source.audio for source in sources_in(tmp_path)]
    assert audio == [*(tmp_path / sounds / f"{name}.m4a" for name in UTTERANCES[:3]), None]


def test_an_utterance_with_two_videos_is_refused(tmp_path: Path):
    unpack(tmp_path / "dev" / "mp4")
    unpack(tmp_path / "mp4", utterances=UTTERANCES[1:2])
    with pytest.raises(BadMedia, match=r"id00012/21Uxsk56VDQ/00002 has two videos, .*; keep one"):
        sources_in(tmp_path)


def test_what_does_not_fit_the_tree_is_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    unpack(tmp_path)
    for stray in ("readme.txt", "21Uxsk56VDQ/00001.txt", "../id00099", ".DS_Store", "../vox2_meta.csv"):
        (tmp_path / "id00012" / stray).touch()
    with caplog.at_level(logging.WARNING):
        assert [source.name for source in sources_in(tmp_path)] == UTTERANCES
    (message,) = caplog.messages
    assert message.startswith("left out 3 files or folders")
    assert "id00012/readme.txt" in message


def test_broken_links_are_left_for_the_check_to_judge(tmp_path: Path):
    unpack(tmp_path)
    (tmp_path / "id00012" / "_-aB" / "00004.mp4").symlink_to("nowhere")
    assert "id00012/_-aB/00004" in [source.name for source in sources_in(tmp_path)]


@pytest.mark.parametrize("content", ["", "videos/id00012/clip/00001.mp4", "id00012/clip/00001.avi"])
def test_a_folder_without_such_a_tree_is_refused(tmp_path: Path, content: str):
    if content:
        unpack(tmp_path, "", [content])
    with pytest.raises(BadMedia, match=r"no `id00012/21Uxsk56VDQ/00001.mp4` below"):
        sources_in(tmp_path)
