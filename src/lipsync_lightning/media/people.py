"""Who is in the picture: follow every face of a video, each under a number of its own."""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.media.alignment import Points
from lipsync_lightning.media.face_mesh import (
    SAME_FACE_OVERLAP,
    FaceFinder,
    Rectangle,
    alignment_points,
    box_of_mesh,
    overlap,
    rectangle_of_mesh,
)
from lipsync_lightning.media.looks import OTHER_PERSON, SAME_PERSON, difference, looks_of

_MISSED_FRAMES = 50  # for so many, whoever was lost is looked for on every one


@dataclass(frozen=True)
class SeenFace:
    """A face in one frame."""

    points: Points
    mesh: np.ndarray | None  # (468, 2) float64, pixels; None of a face that others have found


class PeopleTracker(ABC):
    """Follows the faces of one video. Called with each frame in turn it follows a single face."""

    @abstractmethod
    def people(self, frame: np.ndarray) -> dict[int, SeenFace]:
        """Return the faces of everyone in the next frame, (H, W, 3) uint8 RGB, by ascending number.

        Numbers count up from 0 in the order in which people appear; nobody is given a number that was someone else's.
        """

    @abstractmethod
    def cut(self) -> dict[int, int]:
        """The next frame begins a new shot: whoever is seen then gets a new number.

        Return who those of the shot that ends are, each number's person among all of the video so far, from 0: the one
        of a former shot who looks alike, else somebody new. Two numbers may be one person.
        """

    def goes_on(self, frame: np.ndarray) -> bool:
        """Return whether the next frame shows somebody in their place; then it begins no shot."""
        return False

    def __call__(self, frame: np.ndarray) -> Points | None:
        """Return the points of whoever appeared first of those in the next frame; None if there is nobody."""
        return next((face.points for face in self.people(frame).values()), None)


class People(Protocol):
    """Where the people of a video are known from."""

    def for_video(self, path: Path, first_frame: int = 0) -> PeopleTracker:
        """Return a new tracker, to be shown every frame of `path` from `first_frame` on, in order."""
        ...


@dataclass(frozen=True, kw_only=True)
class MeshPeople:
    """People found by MediaPipe's detectors, followed by its mesh and told apart by their looks, on one core.

    Of several newcomers those are followed that the detectors are surest of.
    """

    search_every: int = 5  # frames, for newcomers; besides, where someone is lost or nobody in sight
    most_people: int = 8  # at a time
    min_side: float = 0  # pixels of the square around a face, 1.5 times its side; smaller ones are passed over

    def for_video(self, path: Path, first_frame: int = 0) -> PeopleTracker:
        """Return a new tracker, as `People` says. Raises: MissingWeights, if the networks were not fetched."""
        return _MeshTracker(self)


@dataclass(frozen=True, kw_only=True)
class _Face(SeenFace):
    """One person's face as last seen."""

    mesh: np.ndarray
    looks: np.ndarray
    moved: float  # since the frame before, or from where the detector saw it, as a part of the face's side

    def is_at(self, box: np.ndarray) -> bool:
        return overlap(box, box_of_mesh(self.mesh)[None]).item() >= SAME_FACE_OVERLAP


class _MeshTracker(PeopleTracker):
    def __init__(self, settings: MeshPeople) -> None:
        self._finder = FaceFinder()
        self._settings = settings
        self._num_people = 0
        self._known: list[np.ndarray] = []  # looks of the people of the video, each the sum of all that were seen
        self._begin_shot()

    def _begin_shot(self) -> None:
        self._seen: dict[int, _Face] = {}
        self._lost: dict[int, _Face] = {}
        self._looks: dict[int, np.ndarray] = {}  # sums, as above, of everyone of this shot
        self._together: set[frozenset[int]] = set()  # pairs that were in one frame
        self._since_search = self._since_loss = 0

    def cut(self) -> dict[int, int]:
        who: dict[int, int] = {}
        while waiting := sorted(self._looks.keys() - who.keys()):
            pairs = [
                (difference(self._looks[number], looks), number, person)
                for number in waiting
                for person, looks in enumerate(self._known)
                if not any(frozenset((number, other)) in self._together for other in who if who[other] == person)
            ]
            apart, number, person = min(pairs, default=(1.0, 0, 0))
            if apart >= SAME_PERSON:
                number, person = waiting[0], len(self._known)
                self._known.append(np.zeros_like(self._looks[number]))
            who[number] = person
            self._known[person] = self._known[person] + self._looks[number]
        self._begin_shot()
        return who

    def people(self, frame: np.ndarray) -> dict[int, SeenFace]:
        found = _without_twins({number: face for number in self._seen if (face := self._followed(frame, number))})
        just_lost = {number: face for number, face in self._seen.items() if number not in found}
        self._lost |= just_lost
        self._since_search += 1
        self._since_loss = 0 if just_lost else self._since_loss + 1
        missed = self._lost and self._since_loss < _MISSED_FRAMES
        if missed or not found or self._since_search >= self._settings.search_every:
            self._since_search = 0
            self._number(self._newcomers(frame, list(found.values())), found)
        self._seen = dict(sorted(found.items()))
        for number, face in found.items():
            self._looks[number] = self._looks.get(number, 0) + face.looks
        self._together |= {frozenset(pair) for pair in combinations(found, 2)}
        return dict(self._seen)

    def goes_on(self, frame: np.ndarray) -> bool:
        for number, before in self._seen.items():
            face = self._followed(frame, number)
            if face and face.is_at(box_of_mesh(before.mesh)) and difference(face.looks, before.looks) < SAME_PERSON:
                return True
        return False

    def _followed(self, frame: np.ndarray, number: int) -> _Face | None:
        """Return somebody's face in the next frame, unless it is gone, or another one now lies there."""
        before = self._seen[number]
        face = self._face(frame, rectangle_of_mesh(before.mesh))
        return face if face and difference(face.looks, before.looks) < OTHER_PERSON else None

    def _face(self, frame: np.ndarray, square: Rectangle) -> _Face | None:
        """Return the face near a square of the frame, unless there is none or it is too small."""
        mesh = None if square.side < self._settings.min_side else self._finder.mesh(frame, square)
        if mesh is None or (around := rectangle_of_mesh(mesh)).side < self._settings.min_side:
            return None
        points = alignment_points(mesh)
        return _Face(points=points, mesh=mesh, looks=looks_of(frame, points), moved=around.difference(square))

    def _newcomers(self, frame: np.ndarray, present: list[_Face]) -> list[_Face]:
        """Return faces besides those that are present, as many as may be followed, the surest first."""
        new: list[_Face] = []
        room = self._settings.most_people - len(present)
        for detection in self._finder.detections(frame) if room > 0 else ():
            if len(new) == room:
                break
            if any(face.is_at(detection.box) for face in present + new):
                continue
            face = self._face(frame, self._finder.upright(frame, detection.square))
            # A false, larger box around a face leads the mesh to that very face.
            if face is not None and not any(other.is_at(box_of_mesh(face.mesh)) for other in present + new):
                new.append(face)
        return new

    def _number(self, new: list[_Face], found: dict[int, _Face]) -> None:
        """Add faces to those found: each of who was lost in this shot, there or looking so, else of somebody new."""
        pairs = []
        for place, face in enumerate(new):
            for number, lost in self._lost.items():
                largest = OTHER_PERSON if lost.is_at(box_of_mesh(face.mesh)) else SAME_PERSON
                apart = min(difference(face.looks, looks) for looks in (lost.looks, self._looks[number])) / largest
                if apart < 1:
                    pairs.append((apart, place, number))
        numbers: dict[int, int] = {}
        for _, place, number in sorted(pairs):
            if place not in numbers and number in self._lost:
                numbers[place] = number
                del self._lost[number]
        for place, face in enumerate(new):
            if place not in numbers:
                numbers[place] = self._num_people
                self._num_people += 1
            found[numbers[place]] = face


def _without_twins(faces: dict[int, _Face]) -> dict[int, _Face]:
    """Where two meshes came to lie on one face, keep the one that moved less; the older, if they moved alike."""
    kept: dict[int, _Face] = {}
    for number, face in sorted(faces.items(), key=lambda item: (item[1].moved, item[0])):
        if not any(other.is_at(box_of_mesh(face.mesh)) for other in kept.values()):
            kept[number] = face
    return kept


@dataclass(frozen=True)
class SidecarPeople:
    """People from a JSON file beside each video, `<video stem>.json`."""

    def for_video(self, path: Path, first_frame: int = 0) -> PeopleTracker:
        """Return a reader of that file, as `People` says; past its end there is nobody. A person of a list is a list.

        Key "points" holds one person: [[x, y] * 3] or null per frame; key "people" a list of such lists.
        Raises: BadMedia, if the file is missing or holds something else.
        """
        return _SidecarTracker(_people_in(Path(path).with_suffix(".json")), first_frame)


class _SidecarTracker(PeopleTracker):
    def __init__(self, lists: list[list[Points | None]], first_frame: int) -> None:
        self._lists = lists
        self._next_frame = first_frame
        self._num_people = 0
        self._numbers: dict[int, int] = {}  # of the lists that someone was in during this shot

    def cut(self) -> dict[int, int]:
        who = {number: which for which, number in self._numbers.items()}
        self._numbers = {}
        return who

    def people(self, frame: np.ndarray) -> dict[int, SeenFace]:
        found: dict[int, SeenFace] = {}
        for which, frames in enumerate(self._lists):
            points = frames[self._next_frame] if self._next_frame < len(frames) else None
            if points is not None:
                if which not in self._numbers:
                    self._numbers[which] = self._num_people
                    self._num_people += 1
                found[self._numbers[which]] = SeenFace(points, None)
        self._next_frame += 1
        return dict(sorted(found.items()))


def _people_in(path: Path) -> list[list[Points | None]]:
    try:
        content = json.loads(path.read_text())
        lists = content["people"] if "people" in content else [content["points"]]
        return [[None if points is None else _three_points(points) for points in frames] for frames in lists]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadMedia(
            f'{path}: expected JSON with "points", one [[x, y], [x, y], [x, y]] or null per frame, or "people", a list '
            f"of such lists; got {type(error).__name__} ({error}); write it, or find faces with MeshPeople"
        ) from error


def _three_points(points: Any) -> Points:
    array = np.array(points, dtype=np.float64)
    if array.shape != (3, 2):
        raise ValueError(f"points of shape {array.shape}")
    return array
