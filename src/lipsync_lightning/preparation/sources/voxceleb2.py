"""VoxCeleb2: a million utterances in folders `id/clip/utterance`."""

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.preparation.sources import Source
from lipsync_lightning.preparation.sources.folder import source_name

_IDENTITY = re.compile(r"id\d+")
_PICTURES, _SOUNDS = "mp4", "aac"  # the folders its archives unpack to
_PLACES = (_PICTURES, f"dev/{_PICTURES}", f"test/{_PICTURES}", "", "dev", "test")
_VIDEO_SUFFIX, _SOUND_SUFFIX = ".mp4", ".m4a"
_NUM_EXAMPLES = 3

log = logging.getLogger(__name__)


class VoxCeleb2Sources:
    """Every utterance `id<number>/<clip>/<utterance>.mp4` below a folder, or below `dev` or `test` in it, with or without `mp4` between.

    Where the parallel folder `aac` has the sound of an utterance, `id<number>/<clip>/<utterance>.m4a`, it is taken from there; else it is
    the video's own. Hidden files are passed over. Whatever else an id's folder holds is left out, counted and logged.
    """

    def __init__(self, *, root: str) -> None:
        self.root = root

    def all(self) -> list[Source]:
        """Return the utterances, named `id00012/21Uxsk56VDQ/00001`, sorted by name: the same wherever the archives were unpacked.

        Raises: BadMedia, if there are none, one has two videos, or a folder cannot be read.
        """
        tree = _Tree()
        for place in _PLACES:
            tree.read(Path(self.root, place))
        if tree.strays:
            examples = ", ".join(map(source_name, tree.strays[:_NUM_EXAMPLES]))
            log.warning(
                "left out %d files or folders that are no `id/clip/utterance.mp4`, such as %s",
                len(tree.strays),
                examples,
            )
        if not tree.sources:
            raise BadMedia(
                f"no `id00012/21Uxsk56VDQ/00001.mp4` below {self.root!r}, nor below mp4, dev/mp4 or test/mp4 in it; give the folder into "
                "which VoxCeleb2's archives were unpacked as recipe.sources.root"
            )
        return [tree.sources[name] for name in sorted(tree.sources)]

    def missing(self) -> dict[str, str]:
        """Return nothing: the tree is its own list."""
        return {}


@dataclass
class _Tree:
    sources: dict[str, Source] = field(default_factory=dict)
    strays: list[Path] = field(default_factory=list)

    def read(self, pictures: Path) -> None:
        sounds = (pictures.parent if pictures.name == _PICTURES else pictures) / _SOUNDS
        for person in _visible(pictures):
            if _IDENTITY.fullmatch(person.name):
                for clip in self._visible_folders(person):
                    self._read_clip(clip, sounds / person.name / clip.name)

    def _visible_folders(self, person: Path) -> list[Path]:
        folders = [path for path in _visible(person) if path.is_dir()]
        self.strays += sorted({*_visible(person)} - {*folders}) if person.is_dir() else [person]
        return folders

    def _read_clip(self, clip: Path, sounds: Path) -> None:
        heard = {sound.stem: sound for sound in _visible(sounds) if sound.suffix == _SOUND_SUFFIX}
        for utterance in _visible(clip):
            name = source_name(Path(clip.parent.name, clip.name, utterance.stem))
            if utterance.suffix != _VIDEO_SUFFIX:
                self.strays.append(utterance)
            elif name in self.sources:
                raise BadMedia(f"{name} has two videos, {self.sources[name].video} and {utterance}; keep one of them")
            else:
                self.sources[name] = Source(name=name, video=utterance, audio=heard.get(utterance.stem))


def _visible(folder: Path) -> list[Path]:
    """What lies in a folder, sorted; nothing if there is no such folder."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise BadMedia(f"{folder} cannot be read: {error.strerror}; make it readable, or move it away") from error
