"""Every file below a folder."""

import logging
import os
from collections import defaultdict, deque
from collections.abc import Iterator
from pathlib import Path

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.media.video import probe
from lipsync_lightning.preparation.sources import Source, Sources

_SOUND_SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".opus")

log = logging.getLogger(__name__)


class FolderSources(Sources):
    """Every file below a folder is a source, whatever it turns out to be, and so is every entry that cannot be opened.

    Passed over are hidden files and folders, and `.json` files, in which points lie beside a video. Links that lead
    nowhere, pipes, and what may not be read are listed, for the check of preparation to say what is wrong with them.
    A folder behind a link is followed, unless its files are listed already; then the link itself is listed.

    A sound file that has a video's name but for the suffix is no source: it is the sound of that video if it has none.
    """

    def __init__(self, *, root: str) -> None:
        self.root = root

    def all(self) -> list[Source]:
        """Return a source for each file, sorted by name: the path below the folder, as `source_name` writes it.

        Raises: BadMedia, if the folder is missing, may not be read, or has no files; if a silent video has two sounds.
        """
        root, way_out = Path(self.root), "give the folder that holds the videos as recipe.source"
        if not root.is_dir():
            raise BadMedia(f"{self.root!r} is not a folder; {way_out}")
        paths = list(_files(root))
        if not paths or paths[0] == root:  # which is listed if it cannot be
            raise BadMedia(f"{self.root!r} holds no files, or cannot be read; {way_out}")
        sounds_of, beside = _sounds_beside_videos(paths)
        found = [
            Source(name=source_name(path.relative_to(root)), video=path, audio=sounds_of.get(path))
            for path in paths
            if path not in beside
        ]
        return sorted(found, key=lambda source: source.name)


def source_name(path: Path) -> str:
    r"""Return a relative path as text that can be stored anywhere, and that no other path has.

    Bytes that are no UTF-8 become `\xff`, backslashes are doubled.
    """
    return os.fsencode(path.as_posix().replace("\\", "\\\\")).decode("utf-8", errors="backslashreplace")


def _sounds_beside_videos(paths: list[Path]) -> tuple[dict[Path, Path], set[Path]]:
    """Return the sound of each silent video that has one beside it, and all sound files that lie beside a video."""
    named: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        if path.suffix.lower() in _SOUND_SUFFIXES:
            named[path.with_suffix("")].append(path)
    sound_of: dict[Path, Path] = {}
    beside, unused = set[Path](), list[Path]()
    for path in paths:
        sounds = named.get(path.with_suffix(""), [])
        if not sounds or path in sounds:
            continue
        try:
            has_sound = probe(path).has_audio
        except BadMedia:  # no video
            continue
        beside.update(sounds)
        if has_sound:
            unused += sounds
        elif len(sounds) > 1:
            told = f"{path} is silent and has {len(sounds)} sounds, {' and '.join(each.name for each in sounds)}"
            raise BadMedia(f"{told}, beside it; keep one of them")
        else:
            sound_of[path] = sounds[0]
    if unused:
        told = "left out %d sound files beside videos that have sound of their own, such as %s"
        log.warning(told, len(unused), unused[0])
    return sound_of, beside


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
