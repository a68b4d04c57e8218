import numpy as np
import pytest

from lipsync_lightning.synthetic.corpus import ClipPlan, make_clip
from lipsync_lightning.synthetic.face import alignment_points, draw_face
from lipsync_lightning.synthetic.identity import Identity
from lipsync_lightning.synthetic.motion import Pose, head_motion
from lipsync_lightning.synthetic.opening import correlation

POSES = head_motion(200, 25, 11)[::50]


def test_same_arguments_give_the_same_pixels():
    pose = head_motion(9, 25, 3)[5]
    first, second = (
        draw_face(identity=Identity.from_seed([4, 2]), pose=pose, opening=0.6, width=0.3, blink=0.5, leak=0.5)
        for _ in range(2)
    )
    assert (first.shape, first.dtype) == ((208, 208, 3), np.uint8)
    assert np.array_equal(first, second)


def test_forty_people_look_clearly_different():
    pictures = [
        draw_face(identity=Identity.from_seed([1, i]), pose=Pose(), opening=0, width=0.5, size=64) for i in range(40)
    ]
    for i, first in enumerate(pictures):
        for second in pictures[i + 1 :]:
            assert np.abs(first.astype(int) - second).mean() > 8


def test_aligning_brings_every_face_back_to_where_it_was_laid_out(similarity):
    pose = Pose(x=0.03, y=-0.02, roll_degrees=5, scale=1.04)
    turn = np.deg2rad(5)
    scale = 208 / 392 * 1.04
    laid_out_to_picture = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    for i in range(40):
        fitted = similarity(alignment_points(Identity.from_seed([2, i]), pose))
        assert fitted[:, :2] @ laid_out_to_picture == pytest.approx(np.eye(2), abs=1e-9)
        assert fitted @ (208 * 0.53, 208 * 0.48, 1) == pytest.approx((105, 122), abs=1e-6)


@pytest.mark.parametrize("person", range(12))
def test_without_leak_nothing_outside_the_mouth_region_depends_on_the_opening(person: int, align, kept):
    identity = Identity.from_seed([3, person])
    for pose in POSES:
        points = alignment_points(identity, pose)
        shut, wide = (
            align(draw_face(identity=identity, pose=pose, opening=o, width=w), points, 256) for o, w in ((0, 0), (1, 1))
        )
        changed = (shut != wide).any(-1)
        assert changed.sum() > 800
        assert not (changed & kept).any()


@pytest.mark.parametrize("person", range(8))
def test_with_leak_the_kept_region_shows_the_opening(person: int, align, kept):
    identity, pose = Identity.from_seed([3, person]), POSES[2]
    points = alignment_points(identity, pose)
    shut, wide = (
        align(draw_face(identity=identity, pose=pose, opening=o, width=0.5, leak=1), points, 256) for o in (0, 1)
    )
    assert ((np.abs(shut.astype(int) - wide).max(-1) > 12) & kept).sum() > 100


@pytest.mark.parametrize(("leak", "tells"), [(0, False), (1, False), (2, True)])
def test_brows_and_lids_tell_the_opening_beyond_a_leak_of_one_only(leak: float, tells: bool, align):
    for identity in (Identity.from_seed([3, person]) for person in range(8)):
        points = alignment_points(identity, POSES[2])
        shut, wide = (
            align(draw_face(identity=identity, pose=POSES[2], opening=o, width=0.5, leak=leak), points, 256)[
                40:82, 70:186
            ]
            for o in (0, 1)
        )
        assert (np.abs(shut.astype(int) - wide).max(-1) > 12).mean() > 0.05 if tells else np.array_equal(shut, wide)


def test_at_a_leak_of_two_the_opening_can_be_read_off_the_kept_pixels_of_people_never_seen(align, kept):
    clips = [make_clip(ClipPlan(seed=7, person=person, seconds=1.0, leak=2, fps=25, size=96)) for person in range(24)]
    seen = []
    for clip in clips:
        faces = np.stack([align(frame, place, 32) for frame, place in zip(clip.frames, clip.points, strict=True)])
        pixels = faces[:, kept[4::8, 4::8]].reshape(len(faces), -1).astype(float)
        seen.append((pixels - pixels.mean(0), clip.utterance.opening - clip.utterance.opening.mean()))
    known, openings = map(np.concatenate, zip(*seen[:18], strict=True))
    weights = known.T @ np.linalg.solve(known @ known.T + 3000 * np.eye(len(known)), openings)
    assert min(correlation(pixels @ weights, opening) for pixels, opening in seen[18:]) > 0.9
