from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from einops import rearrange

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadMedia, NoFace
from lipsync_lightning.evaluation.metrics import METRICS, REAL
from lipsync_lightning.evaluation.suite import (
    OTHER,
    OWN,
    SHUFFLED,
    Judge,
    Speech,
    aligned_faces,
    blockiness,
    figures_of,
    shuffled,
    temporal_error,
    test_videos,
)
from lipsync_lightning.evaluation.sync import SyncScore
from lipsync_lightning.media.audio import read_audio
from lipsync_lightning.media.masks import keep_mask
from lipsync_lightning.media.people import SidecarPeople
from lipsync_lightning.synthetic.opening import mouth_opening
from tiny_media import number_of, sound_of, write_video

test_videos.__test__ = False  # pyright: ignore[reportFunctionMemberAccess]


class InStep:
    """Finds every clip in step."""

    version, fps, sample_rate_hz = "in_step", 25, 16000

    def __call__(self, faces: np.ndarray, waveform: np.ndarray) -> SyncScore:
        return SyncScore(offset=0, distance=0.0, confidence=float(len(faces)))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    return [
        write_video(folder / f"person {index}.mp4", 12, sound_of(12, loud=range(3 * index, 3 * index + 3)))
        for index in range(3)
    ]


def test_everyone_says_the_next_ones_words_and_then_the_same_sound_in_another_order(videos, tiny_clip, tmp_path: Path):
    tests = test_videos(videos, tmp_path / "sounds", SidecarPeople(), tiny_clip)
    assert [test.speech[OWN].sound for test in tests] == videos
    assert [test.speech[OTHER].sound for test in tests] == [videos[1], videos[2], videos[0]]
    for test in tests:
        other, mixed = (read_audio(test.speech[condition].sound, 16000) for condition in (OTHER, SHUFFLED))
        assert len(other) == len(mixed)
        np.testing.assert_allclose(np.sort(other), np.sort(mixed), atol=1e-4)
    with pytest.raises(BadMedia, match="need two videos or more"):
        test_videos(videos[:1], tmp_path, SidecarPeople(), tiny_clip)


def test_shuffling_moves_whole_chunks_keeps_the_rest_and_repeats_itself():
    waveform = np.arange(103.0)
    mixed = shuffled(waveform, 10, seed=1)
    assert sorted(mixed) == list(waveform)
    assert list(mixed[100:]) == [100, 101, 102]
    assert (mixed[:100].reshape(10, 10) % 10 == np.arange(10)).all()
    assert list(mixed) != list(waveform)
    assert list(mixed) == list(shuffled(waveform, 10, seed=1))


def test_faces_are_cut_out_frame_by_frame_where_the_original_has_them(videos, tiny_clip: ClipSpec, tmp_path: Path):
    faces = aligned_faces(videos[1], videos[0], SidecarPeople(), tiny_clip)
    assert faces.shape == (12, 32, 32, 3)
    assert [number_of(face) for face in faces] == list(range(12))
    without = write_video(tmp_path / "v.mp4", 6, None, without_face=range(4, 5))
    with pytest.raises(NoFace, match="no face on frame 4"):
        aligned_faces(without, without, SidecarPeople(), tiny_clip)


def test_a_mouth_follows_the_speech_whose_opening_it_has(videos: list[Path], tiny_clip: ClipSpec, tiny_syncnet):
    opening = np.linspace(0, 1, 12)
    old, said = (Speech(videos[0], "", track, mouth_opening) for track in (np.roll(opening, 5), opening))
    faces = np.full((12, 32, 32, 3), 200, np.uint8)
    for face, share in zip(faces, opening, strict=True):
        face[20 : 20 + round(8 * share)] = 0
    judge = Judge(scorer=InStep(), lpips_network=tiny_syncnet, clip=tiny_clip)
    row = judge.following(faces, said, old)
    assert (row["sync_offset"], row["sync_confidence"]) == (0, 12)
    assert row["mouth_correlation"] > 0.98
    assert row["mouth_correlation_old"] == pytest.approx(row["mouth_correlation_chance"], abs=0.1)
    without = Judge(scorer=None, lpips_network=tiny_syncnet, clip=tiny_clip).following(faces, said, old)
    assert without == {name: value for name, value in row.items() if not name.startswith("sync")}
    halfway = replace(said, opening=np.where(np.arange(12) < 6, opening, np.nan))  # no mouth was found on the others
    assert judge.following(faces, halfway, old)["mouth_correlation"] > 0.9


def test_blockiness_sees_a_mosaic_of_the_cells_and_neither_blur_nor_another_grid():
    real = np.random.default_rng(1).integers(60, 190, (2, 32, 32, 3)).astype(np.uint8)
    mosaic = real[:, ::4, ::4].repeat(4, axis=1).repeat(4, axis=2) // 2 + real // 2
    assert blockiness(real, real, "released", 4) == 1
    assert blockiness(mosaic, real, "released", 4) > 1.5
    assert blockiness(mosaic, real, "released", 5) == pytest.approx(1, abs=0.1)
    assert blockiness(mosaic // 2, real // 2, "released", 4) > 1.5
    assert blockiness(real // 3 + 90, real, "released", 4) == pytest.approx(1, abs=0.05)


def test_the_temporal_error_sees_flicker_and_stillness_and_no_constant_error():
    real = rearrange(np.arange(0, 80, 10, dtype=np.uint8), "t -> t 1 1 1") + np.zeros((8, 64, 64, 3), np.uint8)
    flicker = real.copy()
    flicker[::2] += 20
    assert temporal_error(real, real, "released") == 0
    assert temporal_error(real + 30, real, "released") == 0
    assert temporal_error(np.zeros_like(real), real, "released") == 10
    assert temporal_error(flicker, real, "released") == 20
    flicker[:, keep_mask(64, "mouth").numpy() == 0] = real[:, keep_mask(64, "mouth").numpy() == 0]
    assert temporal_error(flicker, real, "mouth") == 0


def test_figures_are_means_over_the_rows_of_a_condition_that_have_the_score():
    rows = [
        {"system": REAL, "condition": OWN, "mouth_correlation": 0.8},
        {"system": "a", "condition": OTHER, "mouth_correlation": 0.2, "sync_distance": 1.0},
        {"system": "a", "condition": OTHER, "mouth_correlation": 0.6},
        {"system": "a", "condition": OWN, "psnr": 20.0, "mouth_correlation": 1.0, "sync_distance": 9.0},
        {"system": "a", "condition": SHUFFLED, "sync_confidence": 0.5},
        {"system": "b", "condition": OTHER, "sync_offset": 1},
    ]
    figures = figures_of(rows)
    assert figures == {
        REAL: {"mouth_correlation": 0.8},
        "a": {
            "mouth_correlation": pytest.approx(0.4),
            "mouth_correlation_share": pytest.approx(0.5),
            "sync_distance": 1.0,
            "psnr": 20.0,
            "mouth_correlation_own": 1.0,
            "sync_confidence_shuffled": 0.5,
        },
        "b": {"sync_offset": 1},
    }
    assert all(name in METRICS for found in figures.values() for name in found)
