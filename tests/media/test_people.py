import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.media import people as people_module
from lipsync_lightning.media.face_mesh import Detection, Rectangle, alignment_points
from lipsync_lightning.media.people import MeshPeople, PeopleTracker, SidecarPeople

FRAME = np.zeros((8, 8, 3), np.uint8)
POINTS = np.array([[5.0, 7.0], [20.0, 7.0], [13.0, 14.0]])


@dataclass(frozen=True)
class Head:
    x: float
    side: float = 100.0
    score: float = 0.9  # of the detector
    who: int = 0  # of those who look different

    def mesh(self) -> np.ndarray:
        """A mesh whose box is this square, upright, centred at (x, 0)."""
        points = np.random.default_rng(0).uniform(-0.4, 0.4, (468, 2))
        points[0], points[1], points[[33, 263]] = -0.5, 0.5, [[-0.2, -0.2], [0.2, -0.2]]
        return points * self.side + np.array([self.x, 0.0])

    def detection(self) -> Detection:
        half = self.side / 2
        box = np.array([self.x - half, -half, self.x + half, half])
        return Detection(self.score, box, Rectangle(x=self.x, y=0, side=1.5 * self.side, angle=0))

    def looks(self) -> np.ndarray:
        return np.eye(9, dtype=np.float32)[self.who]


class Scene:
    """A finder of the heads in the picture: the mesh finds the one closest to its square, if that is within it."""

    def __init__(self) -> None:
        self.heads: list[Head] = []
        self.false_boxes: list[Head] = []
        self.num_searches = 0

    def detections(self, frame: np.ndarray) -> list[Detection]:
        self.num_searches += 1
        return [head.detection() for head in sorted([*self.heads, *self.false_boxes], key=lambda head: -head.score)]

    def upright(self, frame: np.ndarray, rectangle: Rectangle) -> Rectangle:
        return rectangle

    def looks_of(self, frame: np.ndarray, points: np.ndarray) -> np.ndarray:
        return min(self.heads, key=lambda head: abs(head.x - points[:, 0].mean())).looks()

    def mesh(self, frame: np.ndarray, rectangle: Rectangle) -> np.ndarray | None:
        near = [head for head in self.heads if abs(head.x - rectangle.x) < rectangle.side / 2]
        return min(near, key=lambda head: abs(head.x - rectangle.x)).mesh() if near else None


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    scene = Scene()
    monkeypatch.setattr(people_module, "FaceFinder", lambda: scene)
    monkeypatch.setattr(people_module, "looks_of", scene.looks_of)
    return scene


def tracker(search_every: int = 5, most_people: int = 3, min_side: float = 30) -> PeopleTracker:
    people = MeshPeople(search_every=search_every, most_people=most_people, min_side=min_side)
    return people.for_video(Path("video.mp4"))


def places(tracker: PeopleTracker) -> dict[int, float]:
    """Where everyone is in the next frame."""
    return {
        person: round(face.points[2, 0] - Head(0).mesh()[[5, 129, 358, 4]].mean(axis=0)[0])
        for person, face in tracker.people(FRAME).items()
    }


def test_people_are_numbered_as_they_appear_and_keep_their_numbers(scene: Scene):
    following = tracker()
    scene.heads = [Head(0)]
    assert places(following) == {0: 0}
    scene.heads = [Head(300, who=1), Head(10)]
    found = [places(following) for _ in range(5)]
    assert found[-1] == {0: 10, 1: 300}
    scene.heads = [Head(20), Head(290, who=1)]
    assert places(following) == {0: 20, 1: 290}


def test_a_single_face_is_the_surest_and_needs_no_detector_until_it_is_lost(scene: Scene):
    points_of = MeshPeople(most_people=1).for_video(Path("video.mp4"))
    scene.heads, scene.false_boxes = [Head(300, side=60), Head(50, score=0.8, who=1)], [Head(900, score=0.99)]
    for _ in range(8):
        np.testing.assert_array_equal(points_of(FRAME), alignment_points(Head(300, side=60).mesh()))
    assert scene.num_searches == 1
    scene.heads = [Head(50)]
    np.testing.assert_array_equal(points_of(FRAME), alignment_points(Head(50).mesh()))
    scene.heads = []
    assert [points_of(FRAME) for _ in range(2)] == [None, None]
    assert scene.num_searches == 4


def test_newcomers_are_looked_for_from_time_to_time_and_on_every_frame_while_nobody_is_in_sight(scene: Scene):
    following = tracker(search_every=5)
    assert [places(following) for _ in range(2)] == [{}, {}]
    scene.heads = [Head(0)]
    places(following)
    scene.heads = [Head(0), Head(300, who=1)]
    assert [len(places(following)) for _ in range(5)] == [1, 1, 1, 1, 2]
    assert scene.num_searches == 4


def test_someone_lost_is_looked_for_at_once_and_keeps_the_number(scene: Scene):
    following = tracker(search_every=100)
    scene.heads = [Head(0), Head(300, who=1)]
    places(following)
    scene.heads = [Head(300, who=1), Head(45)]
    scene.mesh = lambda frame, rectangle: None if rectangle.x == 0 else Scene.mesh(scene, frame, rectangle)
    assert list(places(following)) == [0, 1]


def test_whoever_comes_back_to_the_same_place_in_a_shot_keeps_the_number(scene: Scene):
    following = tracker(search_every=2)
    scene.heads = [Head(0), Head(300, who=1)]
    places(following)
    scene.heads = [Head(300, who=1)]
    assert [list(places(following)) for _ in range(10)] == [[1]] * 10
    scene.heads = [Head(300, who=1), Head(20)]
    assert [places(following) for _ in range(2)][-1] == {0: 20, 1: 300}


def test_whoever_comes_back_elsewhere_in_a_shot_is_known_by_looks_and_anybody_else_is_new(scene: Scene):
    following = tracker()
    scene.heads = [Head(0)]
    places(following)
    scene.heads = []
    assert places(following) == {}
    scene.heads = [Head(300, who=1)]
    assert places(following) == {1: 300}
    scene.heads = [Head(300, who=1), Head(600)]
    assert places(following) == {0: 600, 1: 300}


def test_nobody_else_is_given_the_number_of_who_was_lost_though_he_comes_to_that_very_place(scene: Scene):
    following = tracker()
    scene.heads = [Head(0), Head(300, who=1)]
    places(following)
    scene.heads = [Head(0, who=2), Head(300, who=1)]
    assert places(following) == {1: 300, 2: 0}
    scene.heads = [Head(0, who=2), Head(300, who=1), Head(600)]
    assert places(following) == {0: 600, 1: 300, 2: 0}


def test_of_two_who_come_back_at_once_each_is_himself(scene: Scene):
    following = tracker()
    scene.heads = [Head(0), Head(300, who=1)]
    places(following)
    scene.heads = []
    places(following)
    scene.heads = [Head(10, who=1), Head(310)]
    assert places(following) == {0: 310, 1: 10}


def test_a_cut_makes_everyone_new_and_says_who_it_was(scene: Scene):
    following = tracker()
    assert following.cut() == {}
    scene.heads = [Head(0), Head(300, who=1)]
    assert list(places(following)) == [0, 1]
    assert following.cut() == {0: 0, 1: 1}
    scene.heads = [Head(300, score=0.95), Head(0, who=2)]
    assert places(following) == {2: 300, 3: 0}
    assert following.cut() == {2: 0, 3: 2}
    scene.heads = [Head(500, who=1)]
    assert places(following) == {4: 500}
    assert following.cut() == {4: 1}


def test_two_who_are_seen_together_are_never_one_person(scene: Scene):
    following = tracker()
    scene.heads = [Head(0), Head(300)]
    places(following)
    assert following.cut() == {0: 0, 1: 1}
    places(following)
    assert following.cut() == {2: 0, 3: 1}


def test_false_boxes_are_nobody_even_around_a_face(scene: Scene):
    scene.heads, scene.false_boxes = [Head(0)], [Head(500), Head(40, side=300, score=0.5)]
    following = tracker(search_every=1)
    assert [places(following) for _ in range(3)] == [{0: 0}] * 3


def test_one_of_two_tracks_that_come_to_lie_on_a_face_ends_and_it_is_the_one_that_moved(scene: Scene):
    following = tracker()
    scene.heads = [Head(0), Head(70, who=1)]
    assert places(following) == {0: 0, 1: 70}
    scene.heads = [Head(70, who=1)]
    assert places(following) == {1: 70}


def test_the_surest_are_followed_where_there_are_too_many(scene: Scene):
    scene.heads = [Head(0, score=0.6), Head(300, score=0.9), Head(600, score=0.7)]
    assert sorted(places(tracker(most_people=2)).values()) == [300, 600]


def test_small_faces_are_passed_over_and_lost_where_they_become_small(scene: Scene):
    following = tracker(min_side=100)
    scene.heads = [Head(0, side=100), Head(300, side=60)]
    assert list(places(following)) == [0]
    scene.heads = [Head(0, side=60)]
    assert places(following) == {}


def write_sidecar(folder: Path, content: object) -> PeopleTracker:
    (folder / "talk.one.json").write_text(json.dumps(content))
    return SidecarPeople().for_video(folder / "talk.one.mp4")


def test_a_sidecar_numbers_people_as_they_appear_anew_after_a_cut_and_ends_in_nobody(tmp_path: Path):
    here, there = POINTS.tolist(), (POINTS + 9).tolist()
    following = write_sidecar(tmp_path, {"people": [[None, here, here, here], [there, there, None, there]]})
    found = [following.people(FRAME) for _ in range(3)]
    assert following.cut() == {0: 1, 1: 0}
    assert [list(people) for people in found] == [[0], [0, 1], [1]]
    assert [list(following.people(FRAME)) for _ in range(2)] == [[2, 3], []]
    assert following.cut() == {2: 0, 3: 1}
    np.testing.assert_array_equal(found[1][0].points, POINTS + 9)


def test_the_face_of_a_sidecar_is_the_first_persons_while_that_one_is_there(tmp_path: Path):
    here, there = POINTS.tolist(), (POINTS + 9).tolist()
    points_of = write_sidecar(tmp_path, {"people": [[here, None, here], [there] * 3]})
    np.testing.assert_array_equal([points_of(FRAME) for _ in range(3)], [here, there, here])
    points_of = write_sidecar(tmp_path, {"points": [None, here]})
    assert points_of(FRAME) is None
    np.testing.assert_array_equal(points_of(FRAME), POINTS)


@pytest.mark.parametrize(
    "content",
    [{"key": 1}, [], 3, {"points": [[[1, 2]]]}, {"points": 3}, {"people": [3]}, {"people": [[[[1, 2], [3], [4, 5]]]]}],
)
def test_a_broken_sidecar_is_named(tmp_path: Path, content: object):
    with pytest.raises(BadMedia, match=r"talk\.one\.json.*people"):
        write_sidecar(tmp_path, content)
