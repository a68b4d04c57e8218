"""HDTF: intervals of videos, as its authors' lists name them."""

import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.preparation.sources import Source

PARTS = ("RD", "WDA", "WRA")
_VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".m4v", ".avi", ".ts", ".flv")  # the first one there is taken
_EXPECTED = {
    "annotion_time": "intervals such as 00:30-01:00, which end after they begin",
    "crop_wh": "left, width, top and height in pixels",
    "resolution": "the video's height in pixels",
    "video_url": "an address",
}
_NUM_EXAMPLES = 3

Value = TypeVar("Value")

log = logging.getLogger(__name__)


class HdtfSources:
    """One source for each listed interval whose video is there: `RD/Radio11_0` is the first of `RD/Radio11.mp4`.

    The lists are those of the authors' repository, `<part>_annotion_time.txt` and so on, for the parts RD, WDA and WRA.
    Where they contradict themselves this is what is done, and logged:

    - a clip without crop, or whose crop reaches below the stated height of its video (which therefore was not that of
      the video in which it was measured), or whose video has no stated height, has none: the whole picture is used;
    - an interval that begins before the one before it ends begins where that one ends.

    `crop_ratio.txt`, the zoom of another way to crop, around detected faces, is not read.
    """

    def __init__(self, *, root: str, lists: str) -> None:
        """Args:
        root: folder with the videos, `<part>/<name>.mp4` or another usual suffix.
        lists: folder with the authors' lists.
        """
        self.root = root
        self.lists = lists

    def all(self) -> list[Source]:
        """Return the sources whose video is there, sorted by name.

        Raises: BadMedia, if a list is missing, a line of it cannot be read, or no video is there.
        """
        missing = self.missing()
        if len(missing) == len(self._listed):
            first = next(iter(self._listed.values()))
            raise BadMedia(
                f"none of HDTF's videos lies in {self.root!r}, such as {first.video}; download them (see "
                "data_recipes/hdtf/README.md) and give their folder as recipe.source"
            )
        if missing:
            urls = {
                f"{part}/{video}": url for part in PARTS for video, url in self._read(part, "video_url", _url).items()
            }
            examples = ", ".join(
                f"{name} ({urls.get(name.rpartition('_')[0], '')})" for name in missing[:_NUM_EXAMPLES]
            )
            log.warning(
                "%d of %d clips have no video in %s, such as %s", len(missing), len(self._listed), self.root, examples
            )
        return [self._listed[name] for name in sorted(self._listed.keys() - set(missing))]

    def missing(self) -> list[str]:
        """Return the names of clips whose video is not there. Raises: BadMedia, if a list is missing or unreadable."""
        there = {video for videos in self._videos.values() for video in videos.values()}
        return [name for name, source in self._listed.items() if source.video not in there]

    @cached_property
    def _videos(self) -> dict[str, dict[str, Path]]:
        """Videos that are there, by part and name."""
        found: dict[str, dict[str, Path]] = {}
        for part in PARTS:
            folder = Path(self.root, part)
            paths = list(folder.iterdir()) if folder.is_dir() else []
            ranked = [(_VIDEO_SUFFIXES.index(s), p) for p in paths if (s := p.suffix.lower()) in _VIDEO_SUFFIXES]
            found[part] = {path.stem: path for _, path in sorted(ranked, reverse=True)}
        return found

    @cached_property
    def _listed(self) -> dict[str, Source]:
        """All clips in the lists by name, whether their videos are there or not."""
        found: dict[str, Source] = {}
        for part in PARTS:
            crops, heights = self._read(part, "crop_wh", _crop), self._read(part, "resolution", _height)
            for video, intervals in self._read(part, "annotion_time", _intervals).items():
                path = self._videos[part].get(video, Path(self.root, part, f"{video}.mp4"))
                end_s = 0
                for number, (begin_s, stop_s) in enumerate(intervals):
                    start_s, end_s = max(begin_s, end_s), stop_s
                    if start_s >= stop_s:
                        raise BadMedia(
                            f"HDTF's intervals of {part}/{video} are out of order at {begin_s}-{stop_s} s; "
                            f"correct {part}_annotion_time.txt"
                        )
                    if start_s != begin_s:
                        log.warning(
                            "%s/%s: the interval %d-%d s begins inside the one before it; taken from %d s",
                            *(part, video, begin_s, stop_s, start_s),
                        )
                    crop, height = crops.get(f"{video}_{number}"), heights.get(video)
                    if crop is None or not height or crop[1] + crop[3] > height:
                        crop = height = None
                    name = f"{part}/{video}_{number}"
                    found[name] = Source(
                        name=name, video=path, start_s=start_s, stop_s=stop_s, crop=crop, crop_height=height
                    )
        if not found:
            raise BadMedia(f"HDTF's lists in {self.lists!r} name no interval; get them again")
        without = [name for name, source in found.items() if source.crop is None]
        if without:
            log.info(
                "%d of HDTF's %d clips have no crop that could be used: %s",
                len(without),
                len(found),
                ", ".join(without),
            )
        return found

    def _read(self, part: str, which: str, value_of: Callable[[list[str]], Value]) -> dict[str, Value]:
        """Return one list, by the name at the beginning of each line."""
        path = Path(self.lists, f"{part}_{which}.txt")
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()  # one of them begins with a byte order mark
        except FileNotFoundError as error:
            raise BadMedia(f"{path} is missing; give the folder with HDTF's lists as recipe.sources.lists") from error
        except (OSError, UnicodeDecodeError) as error:
            raise BadMedia(f"{path} cannot be read: {error}; get HDTF's lists again") from error
        values: dict[str, Value] = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            name, *words = line.split()
            name = name.removesuffix(".mp4")  # which some lists put after a name
            if name in values:
                raise BadMedia(f"{path}, line {number}: {name} has a line already; delete one of them")
            try:
                values[name] = value_of(words)
            except ValueError as error:
                raise BadMedia(
                    f"{path}, line {number}: expected a name and {_EXPECTED[which]}, got {line.strip()!r}; "
                    "correct the line"
                ) from error
        return values


def _intervals(words: list[str]) -> list[tuple[int, int]]:
    intervals = []
    for word in words:
        begin_s, stop_s = map(_seconds, word.split("-"))
        intervals.append((begin_s, stop_s))
    if not intervals or any(stop_s <= begin_s for begin_s, stop_s in intervals):
        raise ValueError(words)
    return intervals


def _seconds(clock: str) -> int:
    parts = [_whole(part) for part in clock.split(":")]
    if len(parts) not in (2, 3):
        raise ValueError(clock)
    return sum(part * 60**place for place, part in enumerate(reversed(parts)))


def _crop(words: list[str]) -> tuple[int, int, int, int]:
    """Return left, top, width, height. The lists have left, width, top, height."""
    left, width, top, height = map(_whole, words)
    if not width * height:
        raise ValueError(words)
    return left, top, width, height


def _height(words: list[str]) -> int:
    (height,) = map(_whole, words)
    return height


def _url(words: list[str]) -> str:
    (url,) = words
    return url


def _whole(word: str) -> int:
    if not (word.isascii() and word.isdigit()):
        raise ValueError(word)
    return int(word)
