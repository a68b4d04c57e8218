"""Every file below a folder."""

import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.preparation.sources import Source

_SIDECAR_SUFFIX = ".json"  # true points and tracks beside a synthetic video


class FolderSources:
    """Every file below a folder is a source, whatever it turns out to be, and so is everything else that cannot be looked into.

    Passed over are hidden files and folders, and `.json` files. Links that lead nowhere, pipes, and files and folders that may not be read
    are listed, for the check of preparation to say what is wrong with them. A folder behind a link is followed, unless its files are
    listed already, under its own name or behind an earlier link; then the link itself is listed.
    """

    def __init__(self, *, root: str) -> None:
        self.root = root

    def all(self) -> list[Source]:
        """Return a source for each file, sorted by name: the path below the folder, as `source_name` writes it.

        Raises: BadMedia, if the folder is missing, may not be read, or has no files.
        """
        root = Path(self.root)
        if not root.is_dir():
            raise BadMedia(
                f"{self.root!r} is not a folder; give the folder that holds the videos as recipe.sources.root"
            )
        try:
            with os.scandir(root):
                pass
        except OSError as error:
            raise BadMedia(
                f"{self.root!r} cannot be read: {error.strerror}; give a folder you may read as recipe.sources.root"
            ) from error
        found = [Source(name=source_name(path.relative_to(root)), video=path) for path in _files(root)]
        if not found:
            raise BadMedia(
                f"{self.root!r} holds no files; give the folder that holds the videos as recipe.sources.root"
            )
        return sorted(found, key=lambda source: source.name)

    def missing(self) -> dict[str, str]:
        """Return nothing: a folder names no files it does not have."""
        return {}


def source_name(path: Path) -> str:
    r"""Return a relative path as text that can be stored anywhere: bytes that are no UTF-8 as `\xff`, backslashes doubled, so that no two
    paths get one name."""
    return os.fsencode(path.as_posix().replace("\\", "\\\\")).decode("utf-8", errors="backslashreplace")


def _files(root: Path) -> Iterator[Path]:
    """Real folders come before links, so that what has a name without a link keeps it."""
    seen: set[tuple[int, int]] = set()
    folders, links = deque([root]), deque[Path]()
    while folders or links:
        folder = folders.popleft() if folders else links.popleft()
        entries = _entries(folder, seen)
        if entries is None:
            yield folder
            continue
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif entry.is_symlink() and _leads_to_folder(path):
                links.append(path)
            elif path.suffix != _SIDECAR_SUFFIX:
                yield path


def _entries(folder: Path, seen: set[tuple[int, int]]) -> list[os.DirEntry[str]] | None:
    """What lies in a folder, in order, or None if it was looked into before or cannot be."""
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return None
        seen.add((status.st_dev, status.st_ino))
        return sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except OSError:
        return None


def _leads_to_folder(link: Path) -> bool:
    """False for links that lead nowhere, in a loop, or where one may not look."""
    try:
        return stat.S_ISDIR(link.stat().st_mode)
    except OSError:
        return False
