"""VoxCeleb2: a million utterances in folders `id/clip/utterance`."""

import logging
import re
from pathlib import Path

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.preparation.sources import Source, Sources
from lipsync_lightning.preparation.sources.folder import source_name

_PLACES = ("mp4", "dev/mp4", "test/mp4", "", "dev", "test")  # below the root; sound lies in the parallel folder `aac`
_NUM_EXAMPLES = 3

log = logging.getLogger(__name__)


class VoxCeleb2Sources(Sources):
    """Every utterance `id<number>/<clip>/<utterance>.mp4` below a folder, or below `mp4`, `dev` or `test` in it.

    Where the parallel folder `aac` has the sound of an utterance, `id<number>/<clip>/<utterance>.m4a`, it is taken from
    there; else it is the video's own. Hidden files are passed over. Whatever else an id's folder holds is left out,
    counted and logged.
    """

    def __init__(self, *, root: str) -> None:
        self.root = root

    def all(self) -> list[Source]:
        """Return the utterances, named `id00012/21Uxsk56VDQ/00001`, sorted: the same wherever they were unpacked.

        Raises: BadMedia, if there are none, or one has two videos.
        """
        sources: dict[str, Source] = {}
        strays: list[Path] = []
        for place in _PLACES:
            videos = Path(self.root, place)
            sounds = (videos.parent if videos.name == "mp4" else videos) / "aac"
            for person in (path for path in _visible(videos) if re.fullmatch(r"id\d+", path.name)):
                clips = _visible(person)
                strays += [path for path in clips if not path.is_dir()] if person.is_dir() else [person]
                for clip in clips:
                    heard = _visible(sounds / person.name / clip.name)
                    audio = {path.stem: path for path in heard if path.suffix == ".m4a"}
                    for video in _visible(clip):
                        name = source_name(Path(person.name, clip.name, video.stem))
                        if video.suffix != ".mp4":
                            strays.append(video)
                        elif name in sources:
                            both = f"{sources[name].video} and {video}"
                            raise BadMedia(f"{name} has two videos, {both}; keep one of them")
                        else:
                            sources[name] = Source(name=name, video=video, audio=audio.get(video.stem))
        if strays:
            told = "left out %d files or folders that are no `id/clip/utterance.mp4`, such as %s"
            log.warning(told, len(strays), ", ".join(map(source_name, strays[:_NUM_EXAMPLES])))
        if not sources:
            told = f"no `id00012/21Uxsk56VDQ/00001.mp4` below {self.root!r}, mp4, dev/mp4 or test/mp4 in it"
            raise BadMedia(f"{told}; give the folder with VoxCeleb2's unpacked archives as recipe.source")
        return [sources[name] for name in sorted(sources)]


def _visible(folder: Path) -> list[Path]:
    """Return what lies in a folder, sorted; nothing without such a folder. Raises: PermissionError."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
