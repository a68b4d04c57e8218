"""Who is in the picture: follow every face of a video, each under a number of its own."""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
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


class PeopleTracker(ABC):
    """Follows the faces of one video. Called with each frame in turn it follows a single face, as `FacePoints` says."""

    @abstractmethod
    def people(self, frame: np.ndarray) -> dict[int, Points]:
        """Return the points of everyone in the next frame, (H, W, 3) uint8 RGB, by ascending number.

        Numbers count up from 0 in the order in which people appear; nobody is given a number that was someone else's.
        """

    @abstractmethod
    def cut(self) -> None:
        """The next frame begins a new shot: forget everyone; whoever is seen then is somebody new."""

    def __call__(self, frame: np.ndarray) -> Points | None:
        """Return the points of whoever appeared first of those in the next frame; None if there is nobody."""
        return next(iter(self.people(frame).values()), None)


class People(Protocol):
    """Where the people of a video are known from."""

    def for_video(self, path: Path, first_frame: int = 0) -> PeopleTracker:
        """Return a new tracker, to be shown every frame of `path` from `first_frame` on, in order."""
        ...


@dataclass(frozen=True, kw_only=True)
class MeshPeople:
    """People found by MediaPipe's detectors and followed by its mesh, on one core; by default one of any size.

    Of several newcomers those are followed that the detectors are surest of.
    """

    search_every: int = 5  # frames, for newcomers; besides, where someone is lost or nobody in sight
    most_people: int = 1  # at a time
    min_side: float = 0  # pixels of the square around a face, 1.5 times its side; smaller ones are passed over

    def for_video(self, path: Path, first_frame: int = 0) -> PeopleTracker:
        """Return a new tracker, as `People` says. Raises: MissingWeights, if the networks were not fetched."""
        return _MeshTracker(self)


@dataclass(frozen=True, kw_only=True)
class _Face:
    """One person's face as last seen."""

    mesh: np.ndarray  # (468, 2) float64, pixels
    moved: float  # since the frame before, or from where the detector saw it, as a part of the face's side

    def is_at(self, box: np.ndarray) -> bool:
        return overlap(box, box_of_mesh(self.mesh)[None]).item() >= SAME_FACE_OVERLAP


class _MeshTracker(PeopleTracker):
    def __init__(self, settings: MeshPeople) -> None:
        self._finder = FaceFinder()
        self._settings = settings
        self._num_people = 0
        self.cut()

    def cut(self) -> None:
        self._seen: dict[int, _Face] = {}
        self._lost: dict[int, _Face] = {}
        self._since_search = 0

    def people(self, frame: np.ndarray) -> dict[int, Points]:
        followed = {person: self._face(frame, rectangle_of_mesh(face.mesh)) for person, face in self._seen.items()}
        found = _without_twins({person: face for person, face in followed.items() if face is not None})
        just_lost = {person: face for person, face in self._seen.items() if person not in found}
        self._lost |= just_lost
        self._since_search += 1
        if just_lost or not found or self._since_search >= self._settings.search_every:
            self._since_search = 0
            if len(found) < self._settings.most_people:
                self._add_newcomers(frame, found)
        self._seen = dict(sorted(found.items()))
        return {person: alignment_points(face.mesh) for person, face in self._seen.items()}

    def _face(self, frame: np.ndarray, square: Rectangle) -> _Face | None:
        """Return the face near a square of the frame, unless there is none or it is too small."""
        mesh = None if square.side < self._settings.min_side else self._finder.mesh(frame, square)
        if mesh is None:
            return None
        around = rectangle_of_mesh(mesh)
        return None if around.side < self._settings.min_side else _Face(mesh=mesh, moved=around.difference(square))

    def _add_newcomers(self, frame: np.ndarray, found: dict[int, _Face]) -> None:
        for detection in self._finder.detections(frame):
            if len(found) >= self._settings.most_people:
                return
            if any(face.is_at(detection.box) for face in found.values()):
                continue
            face = self._face(frame, detection.square)
            # A false, larger box around a face leads the mesh to that very face.
            if face is not None and not any(other.is_at(box_of_mesh(face.mesh)) for other in found.values()):
                found[self._number_of(face)] = face

    def _number_of(self, face: _Face) -> int:
        """Return the number of the person who was lost here in this shot, else a new one."""
        for person, lost in sorted(self._lost.items()):
            if lost.is_at(box_of_mesh(face.mesh)):
                del self._lost[person]
                return person
        self._num_people += 1
        return self._num_people - 1


def _without_twins(faces: dict[int, _Face]) -> dict[int, _Face]:
    """Where two meshes came to lie on one face, keep the one that moved less; the older, if they moved alike."""
    kept: dict[int, _Face] = {}
    for person, face in sorted(faces.items(), key=lambda item: (item[1].moved, item[0])):
        if not any(other.is_at(box_of_mesh(face.mesh)) for other in kept.values()):
            kept[person] = face
    return kept


@dataclass(frozen=True)
class SidecarPeople:
    """People from a JSON file beside each video, `<video stem>.json`."""

    def for_video(self, path: Path, first_frame: int = 0) -> PeopleTracker:
        """Return a reader of that file, as `People` says; past its end there is nobody.

        Key "points" holds one person: [[x, y] * 3] or null per frame; key "people" a list of such lists.
        Raises: BadMedia, if the file is missing or holds something else.
        """
        return _SidecarTracker(_people_in(Path(path).with_suffix(".json")), first_frame)


class _SidecarTracker(PeopleTracker):
    def __init__(self, lists: list[list[Points | None]], first_frame: int) -> None:
        self._lists = lists
        self._next_frame = first_frame
        self._num_people = 0
        self.cut()

    def cut(self) -> None:
        self._numbers: dict[int, int] = {}  # of the lists that someone was in during this shot

    def people(self, frame: np.ndarray) -> dict[int, Points]:
        found: dict[int, Points] = {}
        for which, frames in enumerate(self._lists):
            points = frames[self._next_frame] if self._next_frame < len(frames) else None
            if points is not None:
                if which not in self._numbers:
                    self._numbers[which] = self._num_people
                    self._num_people += 1
                found[self._numbers[which]] = points
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
