"""Which sources are held out, for validation and tests: by rule instead of by list."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Protocol

from lipsync_lightning.errors import BadConfig

_TEXTS = {
    ".txt",
    ".md",
    ".csv",
    ".tsv",
    ".html",
    ".xml",
    ".yaml",
    ".yml",
    ".srt",
    ".vtt",
    ".ass",
    ".pdf",
    ".py",
    ".sh",
    ".log",
}
_PICTURES_AND_SOUNDS = {
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".bmp",
    ".tif",
    ".tiff",
    ".wav",
    ".flac",
    ".mp3",
    ".m4a",
    ".aac",
    ".ogg",
    ".opus",
}
_ARRAYS_AND_ARCHIVES = {".npy", ".npz", ".pt", ".pkl", ".h5", ".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".parquet"}
_NO_VIDEO = _TEXTS | _PICTURES_AND_SOUNDS | _ARRAYS_AND_ARCHIVES


class Split(Protocol):
    """Decides which sources are held out, from their names alone, so that everyone holds out the same."""

    @property
    def rule(self) -> str:
        """What the decision rests on besides names: shards made by another rule hold out others."""
        ...

    def identity(self, name: str) -> str:
        """Return what must be on one side as a whole. Raises: BadConfig, if the name does not tell."""
        ...

    def heldout(self, identities: set[str]) -> set[str]:
        """Return those of the identities that are held out."""
        ...


class SplitByFolder:
    """Holds out everything below one top folder of the source."""

    def __init__(self, *, heldout_folder: str) -> None:
        self.heldout_folder = heldout_folder

    @property
    def rule(self) -> str:
        return f"folder {self.heldout_folder}"

    def identity(self, name: str) -> str:
        return name.split("/")[0]

    def heldout(self, identities: set[str]) -> set[str]:
        return identities & {self.heldout_folder}


class SplitByHash:
    """Holds out the identities with the smallest sha256 of `lipsync-test-1:<identity>`."""

    def __init__(self, *, num_heldout: int, identity: str) -> None:
        """Args:
        num_heldout: identities to hold out; 0 for none.
        identity: a regular expression; what it matches in a source's name is the identity.
        """
        self.num_heldout = num_heldout
        self.pattern = re.compile(identity)

    @property
    def rule(self) -> str:
        return f"{self.num_heldout} by hash of {self.pattern.pattern}"

    def identity(self, name: str) -> str:
        found = self.pattern.search(name)
        if found is None:
            raise BadConfig(
                f"the identity pattern {self.pattern.pattern!r} matches nothing in {name!r}; change the recipe's split.identity"
            )
        return found.group(0)

    def heldout(self, identities: set[str]) -> set[str]:
        by_hash = sorted(identities, key=lambda each: hashlib.sha256(f"lipsync-test-1:{each}".encode()).hexdigest())
        return set(by_hash[: self.num_heldout])


def sides(split: Split, names: Iterable[str], planned: Mapping[str, bool]) -> dict[str, bool]:
    """Return for each name whether it is held out.

    Identities are chosen among the names that may be videos; a file that is none would make a poor test clip, but follows its identity.
    Args: planned: names that have their side for good, their shards being written, whatever came later. Others follow their identity.
    Raises: BadConfig, if a video's name does not tell its identity.
    """
    wanted = {*names, *planned}
    identity_of = {name: split.identity(name) for name in sorted(wanted) if may_be_video(name)}
    chosen = split.heldout(set(identity_of.values()))
    side_of = {identity: identity in chosen for identity in identity_of.values()}
    side_of |= {identity_of[name]: side for name, side in planned.items() if name in identity_of}
    for name in wanted - identity_of.keys():
        try:
            identity_of[name] = split.identity(name)
        except BadConfig:
            continue  # such as a readme
    return {name: side_of.get(identity_of.get(name, ""), False) for name in wanted} | dict(planned)


def may_be_video(name: str) -> bool:
    """Return whether a file's name does not say that it is something else. A list of our own: mimetypes differ between machines."""
    return PurePosixPath(name).suffix.lower() not in _NO_VIDEO
