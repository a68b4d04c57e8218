"""Every file below a folder."""

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.preparation.sources import Source, Sources


class FolderSources(Sources):
    """Every file below a folder is a source, whatever it turns out to be, and so is every entry that cannot be opened.

    Passed over are hidden files and folders, and `.json` files, in which points lie beside a video. Links that lead
    nowhere, pipes, and what may not be read are listed, for the check of preparation to say what is wrong with them.
    A folder behind a link is followed, unless its files are listed already; then the link itself is listed.
    """

    def __init__(self, *, root: str) -> None:
        self.root = root

    def all(self) -> list[Source]:
        """Return a source for each file, sorted by name: the path below the folder, as `source_name` writes it.

        Raises: BadMedia, if the folder is missing, may not be read, or has no files.
        """
        root, way_out = Path(self.root), "give the folder that holds the videos as recipe.source"
        if not root.is_dir():
            raise BadMedia(f"{self.root!r} is not a folder; {way_out}")
        found = [Source(name=source_name(path.relative_to(root)), video=path) for path in _files(root)]
        if not found or found[0].video == root:  # which is listed if it cannot be
            raise BadMedia(f"{self.root!r} holds no files, or cannot be read; {way_out}")
        return sorted(found, key=lambda source: source.name)


def source_name(path: Path) -> str:
    r"""Return a relative path as text that can be stored anywhere, and that no other path has.

    Bytes that are no UTF-8 become `\xff`, backslashes are doubled.
    """
    return os.fsencode(path.as_posix().replace("\\", "\\\\")).decode("utf-8", errors="backslashreplace")


def _files(root: Path) -> Iterator[Path]:
    """Yield files. Real folders come before links, so that what has a name without a link keeps it."""
    seen: set[tuple[int, int]] = set()
    folders, links = deque([root]), deque[Path]()
    while folders or links:
        folder = folders.popleft() if folders else links.popleft()
        try:
            status = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
        except OSError:
            status, entries = None, []
        if status is None or (status.st_dev, status.st_ino) in seen:
            yield folder
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif entry.is_symlink() and os.path.isdir(path):  # noqa: PTH112 (False wherever one may not look)
                links.append(path)
            elif path.suffix != ".json":
                yield path
