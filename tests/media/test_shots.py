from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scenedetect import AdaptiveDetector, detect

from lipsync_lightning.media.shots import AdaptiveShots

FPS = 25.0
DEFAULTS: dict[str, Any] = {"threshold": 3.0, "min_content": 15.0, "window": 2, "min_shot_seconds": 0.6}


def shot(seed: int, num_frames: int, width: int, height: int) -> Iterator[np.ndarray]:
    """A coarse coloured picture, panned a little."""
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    picture = np.kron(blocks, np.ones((8, 8, 1), np.uint8))[:height, :width]
    for index in range(num_frames):
        yield np.roll(picture, index, axis=1)


def film(lengths: tuple[int, ...], width: int = 64, height: int = 48) -> list[np.ndarray]:
    return [frame for seed, length in enumerate(lengths) for frame in shot(seed, length, width, height)]


def cuts(shots: AdaptiveShots, frames: list[np.ndarray], fps: float = FPS) -> list[int]:
    return [index for index, (_, begins_shot) in enumerate(shots(frames, fps)) if begins_shot]


def both_find(folder: Path, frames: list[np.ndarray]) -> tuple[list[int], list[int]]:
    """Return the cuts that we, and PySceneDetect itself, find in a video of these frames."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(folder / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (width, height))
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()
    video = cv2.VideoCapture(str(folder / "film.avi"))
    read = [cv2.cvtColor(video.read()[1], cv2.COLOR_BGR2RGB) for _ in frames]
    scenes = detect(str(folder / "film.avi"), AdaptiveDetector(), start_in_scene=True)
    return cuts(AdaptiveShots(**DEFAULTS), read), [start.frame_num for start, _ in scenes]


@pytest.mark.parametrize("size", [(64, 48), (400, 240), (272, 480)])
@pytest.mark.parametrize(
    "lengths", [(40,), (20, 20), (16, 8, 30, 3, 25), (14, 1, 14, 15, 16, 2), (3, 1), (30, 2), (30, 3)]
)
def test_shots_are_those_that_pyscenedetect_finds_itself(tmp_path: Path, lengths, size):
    ours, theirs = both_find(tmp_path, film(lengths, *size))
    assert ours == theirs


@pytest.mark.parametrize("colour", [(200, 60, 75), (75, 60, 200), (90, 140, 90)])
def test_cuts_that_are_hardly_noticed_are_the_same_ones_too(tmp_path: Path, colour):
    """Fine grain and a hue that wraps around at red: what is looked at must be scaled and coloured as there."""
    rng = np.random.default_rng(0)
    shots = [rng.normal(colour, grain, (240, 400, 3)) for grain in np.linspace(2, 50, 25)]
    frames = [np.clip(picture, 0, 255).astype(np.uint8) for picture in shots for _ in range(16)]
    ours, theirs = both_find(tmp_path, frames)
    assert ours == theirs
    assert 1 < len(ours) < len(shots)


def test_a_shot_lasts_at_least_as_long_as_asked_at_any_frame_rate():
    frames = film((20, 10, 20, 20))
    assert cuts(AdaptiveShots(**DEFAULTS), frames, fps=25.0) == [0, 20, 50]
    assert cuts(AdaptiveShots(**DEFAULTS), frames, fps=12.5) == [0, 20, 30, 50]


def test_every_frame_comes_out_as_it_went_in_and_with_a_lag_of_the_window():
    frames, num_read = film((6, 6)), 0

    def read() -> Iterator[np.ndarray]:
        nonlocal num_read
        for frame in frames:
            num_read += 1
            yield frame

    for index, (frame, _) in enumerate(AdaptiveShots(**DEFAULTS)(read(), FPS)):
        assert frame is frames[index]
        assert num_read == min(index + 3, len(frames))


def test_frames_may_change_their_size():
    assert cuts(AdaptiveShots(**DEFAULTS), film((20,)) + film((20,), 80, 60))[0] == 0


@pytest.mark.parametrize("num_frames", [0, 1, 3])
def test_very_short_videos_are_one_shot(num_frames):
    assert cuts(AdaptiveShots(**DEFAULTS), film((num_frames,))) == [0][:num_frames]
