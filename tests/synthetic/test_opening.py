import cv2
import numpy as np
import pytest

from lipsync_lightning.synthetic.corpus import ClipPlan, make_clip
from lipsync_lightning.synthetic.opening import correlation, mouth_opening


def as_a_small_network_would_paint_it(frame: np.ndarray) -> np.ndarray:
    blurred = cv2.GaussianBlur(frame, (0, 0), 0.7)
    coded = cv2.imencode(".jpg", blurred[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))[..., ::-1]


@pytest.mark.parametrize("person", range(8))
def test_measured_opening_follows_the_true_one(person: int, align):
    clip = make_clip(ClipPlan(seed=5, person=person, clip=0, seconds=2.0, leak=0, fps=25, size=208))
    small, aligned = (
        np.stack([align(frame, points, size) for frame, points in zip(clip.frames, clip.points, strict=True)])
        for size in (32, 64)
    )
    poor = np.stack([as_a_small_network_would_paint_it(frame) for frame in aligned])
    assert correlation(mouth_opening(small), clip.utterance.opening) > 0.9
    assert correlation(mouth_opening(aligned), clip.utterance.opening) > 0.93
    assert correlation(mouth_opening(poor), clip.utterance.opening) > 0.9


def test_a_wide_mouth_does_not_count_as_an_open_one(align):
    clip = make_clip(ClipPlan(seed=5, person=1, clip=0, seconds=1.0, leak=0, fps=25, size=208))
    shut = clip.utterance.opening == 0
    aligned = np.stack([align(frame, points, 64) for frame, points in zip(clip.frames, clip.points, strict=True)])
    measured = mouth_opening(aligned)
    assert np.ptp(measured[shut]) < 0.1 * np.ptp(measured)
