import json
from pathlib import Path

import numpy as np
import pytest

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadMedia, NoFace
from lipsync_lightning.evaluation.suite import aligned_faces, mean_of, shuffled, test_videos, true_opening
from lipsync_lightning.media.audio import read_audio
from lipsync_lightning.media.people import SidecarPeople
from tiny_media import number_of, sound_of, write_video

test_videos.__test__ = False  # pyright: ignore[reportFunctionMemberAccess]


@pytest.fixture
def videos(tmp_path: Path) -> list[Path]:
    return [
        write_video(tmp_path / f"person {index}.mp4", 12, sound_of(12, loud=range(3 * index, 3 * index + 3)))
        for index in range(3)
    ]


def test_everyone_says_the_next_ones_words_and_no_one_their_own(videos: list[Path], tmp_path: Path):
    tests = test_videos(videos, tmp_path / "sounds", 16000)
    assert [test.own.sound for test in tests] == videos
    assert [test.other.sound for test in tests] == [videos[1], videos[2], videos[0]]


def test_shuffled_speech_has_the_same_sound_in_another_order(videos: list[Path], tmp_path: Path):
    for test in test_videos(videos, tmp_path / "sounds", 16000):
        other, mixed = (read_audio(speech.sound, 16000) for speech in (test.other, test.shuffled))
        assert len(other) == len(mixed)
        np.testing.assert_allclose(np.sort(other), np.sort(mixed), atol=1e-4)
        assert test.shuffled.opening is test.other.opening


def test_shuffling_moves_whole_chunks_keeps_the_rest_and_repeats_itself():
    waveform = np.arange(103.0)
    mixed = shuffled(waveform, 10, seed=1)
    assert sorted(mixed) == list(waveform)
    assert list(mixed[100:]) == [100, 101, 102]
    assert (mixed[:100].reshape(10, 10) % 10 == np.arange(10)).all()
    assert list(mixed) != list(waveform)
    assert list(mixed) == list(shuffled(waveform, 10, seed=1))


def test_one_video_has_no_one_to_exchange_speech_with(videos: list[Path], tmp_path: Path):
    with pytest.raises(BadMedia, match="at least two videos"):
        test_videos(videos[:1], tmp_path, 16000)


def test_the_true_opening_is_read_where_there_is_one(videos: list[Path]):
    assert true_opening(videos[0]) is None
    videos[0].with_suffix(".json").write_text(json.dumps({"opening": [0, 0.5]}))
    opening = true_opening(videos[0])
    assert opening is not None
    assert opening.tolist() == [0, 0.5]
    videos[0].with_suffix(".json").unlink()
    assert true_opening(videos[0]) is None


def test_faces_are_cut_out_frame_by_frame_where_the_original_has_them(videos: list[Path], tiny_clip: ClipSpec):
    faces = aligned_faces(videos[1], videos[0], SidecarPeople(), tiny_clip)
    assert faces.shape == (12, 32, 32, 3)
    assert [number_of(face) for face in faces] == list(range(12))


def test_a_frame_without_a_face_cannot_be_judged(tmp_path: Path, tiny_clip: ClipSpec):
    video = write_video(tmp_path / "v.mp4", 6, None, without_face=range(4, 5))
    with pytest.raises(NoFace, match="no face on frame 4"):
        aligned_faces(video, video, SidecarPeople(), tiny_clip)


def test_means_are_over_the_rows_that_have_the_figure():
    rows = [{"a": 1.0, "system": "x"}, {"a": 3.0, "system": "x"}, {"system": "x"}, {"a": 9.0, "system": "y"}]
    assert mean_of(rows, "a", system="x") == 2
    assert mean_of(rows, "b", system="x") is None
