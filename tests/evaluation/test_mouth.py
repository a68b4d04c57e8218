import numpy as np
import pytest

from lipsync_lightning.evaluation.mouth import mesh_opening
from lipsync_lightning.media.alignment import Aligner, align
from lipsync_lightning.synthetic.corpus import ClipPlan, make_clip
from lipsync_lightning.synthetic.opening import correlation


@pytest.mark.parametrize("resolution", [64, 128])
def test_the_mesh_opening_follows_the_true_one_of_a_drawn_face(resolution: int):
    clip = make_clip(ClipPlan(seed=1, person=0, seconds=1.6, leak=0.3, fps=25, size=208))
    aligner = Aligner(resolution=resolution)
    pairs = zip(clip.frames, clip.points, strict=True)
    measured = mesh_opening(np.stack([align(frame, aligner.matrix(points), resolution) for frame, points in pairs]))
    assert correlation(measured, clip.utterance.opening) > 0.95
    assert correlation(measured, np.roll(clip.utterance.opening, 7)) < 0.7


def test_where_there_is_no_face_no_opening_is_known():
    assert np.isnan(mesh_opening(np.zeros((2, 64, 64, 3), np.uint8))).all()
