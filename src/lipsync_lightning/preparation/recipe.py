"""Which videos become shards, and by which settings."""

import hashlib
import mimetypes
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lipsync_lightning.errors import BadConfig, BadMedia
from lipsync_lightning.media.faces import FacePoints

_SIDECAR_SUFFIX = ".json"  # true points and tracks beside a synthetic video


class Split(Protocol):
    """Decides which sources are held out, from their names alone, so that everyone holds out the same."""

    def heldout(self, names: list[str]) -> set[str]: ...


class SplitByFolder:
    """Holds out everything below one top folder of the source."""

    def __init__(self, *, heldout_folder: str) -> None:
        self.heldout_folder = heldout_folder

    def heldout(self, names: list[str]) -> set[str]:
        return {name for name in names if name.split("/")[0] == self.heldout_folder}


class SplitByHash:
    """Holds out the identities with the smallest sha256 of `lipsync-test-1:<identity>`."""

    def __init__(self, *, num_heldout: int, identity: str) -> None:
        """Args:
        num_heldout: identities to hold out; 0 for none.
        identity: a regular expression; what it matches in a source's name is the identity.
        """
        self.num_heldout = num_heldout
        self.identity = re.compile(identity)

    def heldout(self, names: list[str]) -> set[str]:
        identity_of = {name: self._identity(name) for name in names}
        by_hash = sorted(set(identity_of.values()), key=lambda i: hashlib.sha256(f"lipsync-test-1:{i}".encode()).hexdigest())
        chosen = set(by_hash[: self.num_heldout])
        return {name for name, identity in identity_of.items() if identity in chosen}

    def _identity(self, name: str) -> str:
        found = self.identity.search(name)
        if found is None:
            raise BadConfig(
                f"the identity pattern {self.identity.pattern!r} matches nothing in {name!r}; change the recipe's split.identity"
            )
        return found.group(0)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One data set: where its videos lie and how they are cut."""

    name: str  # of the data set; the first part of every sample's id
    source: str  # folder of videos, searched through all its folders
    faces: FacePoints
    split: Split
    min_seconds: float  # shorter stretches with a face and sound are rejected
    max_seconds: float  # longer ones are cut

    def __post_init__(self) -> None:
        if not 0 < self.min_seconds <= self.max_seconds:
            raise BadConfig(f"recipe {self.name}: need 0 < min_seconds <= max_seconds, got {self.min_seconds} and {self.max_seconds}")

    def sources(self) -> list[str]:
        """Return the names of all files below `source`, relative to it, sorted; hidden files and sidecars left out.

        Raises: BadMedia, if the folder is missing or has no files.
        """
        root = Path(self.source)
        if not root.is_dir():
            raise BadMedia(f"recipe.source={self.source!r} is not a folder; give the folder that holds the videos")
        files = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != _SIDECAR_SUFFIX)
        names = [path.relative_to(root).as_posix() for path in files]
        visible = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
        if not visible:
            raise BadMedia(f"recipe.source={self.source!r} holds no files; give the folder that holds the videos")
        return visible


def may_be_video(name: str) -> bool:
    """Return whether a file's name does not say that it is something else, which would make a poor held-out clip."""
    kind, _ = mimetypes.guess_type(name)
    return kind is None or kind.startswith("video/")


def sample_id(dataset: str, source_name: str, segment: int) -> str:
    """Return the id of one clip: data set, relative path and segment. It has no dots, because a shard key ends at the first one."""
    return f"{_without_dots(dataset)}/{_without_dots(source_name)}/{segment:04d}"


def _without_dots(name: str) -> str:
    return name.replace("%", "%25").replace(".", "%2E")
