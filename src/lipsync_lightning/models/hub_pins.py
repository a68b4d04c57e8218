"""What is fetched from the Hugging Face hub: files of one commit, known by size and sha256 beforehand."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lipsync_lightning.errors import BadConfig

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """A file of a hub repository and what it must be. Raises: BadConfig."""

    path: str  # in the repository, and below the folder it is fetched into
    size: int  # bytes
    sha256: str

    def __post_init__(self) -> None:
        path = PurePosixPath(self.path)
        if path.is_absolute() or not path.parts or ".." in path.parts:
            raise BadConfig(f"{self.path!r} is no path inside a repository")
        if self.size <= 0 or not SHA256.fullmatch(self.sha256):
            raise BadConfig(
                f"{self.path}: a pin needs the size in bytes and 64 hex digits, not {self.size} and {self.sha256!r}"
            )


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """Files of one commit of a hub repository, and the folder they go to. Raises: BadConfig."""

    repo: str  # owner/name
    revision: str  # all 40 digits of a commit: a branch moves, and what moves cannot be checked
    folder: str
    files: Sequence[HubFile]

    def __post_init__(self) -> None:
        if not HUB_ID.fullmatch(self.repo):
            raise BadConfig(f"{self.repo!r} is no hub repository; expected owner/name")
        if not _COMMIT.fullmatch(self.revision):
            raise BadConfig(
                f"{self.repo}: revision {self.revision!r} can move; give the 40 hex digits of a commit, as its page's history lists them"
            )


@dataclass(frozen=True, kw_only=True)
class Pin:
    """One file of one commit, and the folder it goes to."""

    repo: str
    revision: str
    folder: Path
    file: HubFile

    @property
    def target(self) -> Path:
        return self.folder / self.file.path

    @property
    def name(self) -> str:
        return f"{self.repo}/{self.file.path} at {self.revision[:8]}"
