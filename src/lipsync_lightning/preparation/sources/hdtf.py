"""HDTF: intervals of videos, as its authors' lists name them."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.preparation.sources import Source

PARTS = ("RD", "WDA", "WRA")
_TIMES, _CROPS, _HEIGHTS, _URLS = "annotion_time", "crop_wh", "resolution", "video_url"  # as the authors spell them
_LISTED_SUFFIX = ".mp4"  # which some lists put after a name
_VIDEO_SUFFIXES = (
    ".mp4",
    ".mkv",
    ".webm",
    ".mov",
    ".m4v",
    ".avi",
    ".ts",
    ".flv",
)  # of two videos of one name the earlier in this list
_NUM_EXAMPLES = 3

Value = TypeVar("Value")
Interval = tuple[int, int]  # seconds
Crop = tuple[int, int, int, int]  # left, top, width, height

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListedClip:
    """One interval of one video, as the lists have it."""

    part: str
    video: str
    number: int  # of the interval in its video, from 0
    interval: Interval
    crop: Crop | None
    crop_height: int | None  # of the video in which `crop` was measured, in pixels

    @property
    def name(self) -> str:
        return f"{self.part}/{self.video}_{self.number}"


class HdtfSources:
    """One source for each interval in HDTF's lists whose video is there: `RD/Radio11_0` is the first interval of `<root>/RD/Radio11.mp4`.

    The lists are those of the authors' repository, `<part>_annotion_time.txt` and so on, for the parts RD, WDA and WRA. Where they
    contradict themselves this is what is done, and logged:

    - a clip without crop, or whose crop reaches below the stated height of its video (which therefore was not the height of the video in
      which it was measured), or whose video has no stated height, has none: the whole picture is searched for faces;
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
        if len(missing) == len(self.listed):
            raise BadMedia(
                f"none of HDTF's videos lies in {self.root!r}, such as {self.root}/{self.listed[0].part}/{self.listed[0].video}.mp4; "
                "download them (see data_recipes/hdtf/README.md) and give their folder as recipe.sources.root"
            )
        if missing:
            examples = ", ".join(f"{name} ({url})" for name, url in list(missing.items())[:_NUM_EXAMPLES])
            log.warning(
                "%d of %d clips have no video in %s, such as %s", len(missing), len(self.listed), self.root, examples
            )
        there = [clip for clip in self.listed if clip.name not in missing]
        return sorted((self._source(clip) for clip in there), key=lambda source: source.name)

    def missing(self) -> dict[str, str]:
        """Return the clips whose video is not there, by name, each with the address of its video, "" where the lists have none.

        Whether a clip is held out must not hang on which others could be downloaded: give a split these names too.
        Raises: BadMedia, if a list is missing or a line of it cannot be read.
        """
        return {
            clip.name: self._urls[clip.part].get(clip.video, "")
            for clip in self.listed
            if clip.video not in self._videos[clip.part]
        }

    @cached_property
    def listed(self) -> list[ListedClip]:
        """All clips in the lists, whether their videos are there or not. Raises: BadMedia, as `all` does."""
        clips = [clip for part in PARTS for clip in self._listed(part)]
        if not clips:
            raise BadMedia(f"HDTF's lists in {self.lists!r} name no interval; get them again")
        without = [clip.name for clip in clips if clip.crop is None]
        if without:
            log.info(
                "%d of HDTF's %d clips have no crop that could be used: %s",
                len(without),
                len(clips),
                ", ".join(without),
            )
        return clips

    def _listed(self, part: str) -> Iterator[ListedClip]:
        times, crops = self._read(part, _TIMES, _intervals), self._read(part, _CROPS, _crop)
        heights = self._read(part, _HEIGHTS, _height)
        for video, intervals in times.items():
            for number, interval in enumerate(_one_after_the_other(intervals, f"{part}/{video}")):
                clip = ListedClip(part, video, number, interval, crops.get(f"{video}_{number}"), heights.get(video))
                yield clip if _crop_fits(clip) else replace(clip, crop=None, crop_height=None)

    @cached_property
    def _urls(self) -> dict[str, dict[str, str]]:
        return {part: self._read(part, _URLS, _url) for part in PARTS}

    @cached_property
    def _videos(self) -> dict[str, dict[str, Path]]:
        """By part and name."""
        found: dict[str, dict[str, Path]] = {}
        for part in PARTS:
            folder = Path(self.root, part)
            paths = (
                [path for path in folder.iterdir() if path.suffix.lower() in _VIDEO_SUFFIXES] if folder.is_dir() else []
            )
            worst_first = sorted(paths, key=lambda path: (-_VIDEO_SUFFIXES.index(path.suffix.lower()), path.name))
            found[part] = {path.stem: path for path in worst_first}
        return found

    def _source(self, clip: ListedClip) -> Source:
        start_s, stop_s = map(float, clip.interval)
        video = self._videos[clip.part][clip.video]
        return Source(
            name=clip.name, video=video, start_s=start_s, stop_s=stop_s, crop=clip.crop, crop_height=clip.crop_height
        )

    def _read(self, part: str, which: str, value_of: Callable[[list[str]], Value]) -> dict[str, Value]:
        """One list, by the name at the beginning of each line."""
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
            name = name.removesuffix(_LISTED_SUFFIX)
            if name in values:
                raise BadMedia(f"{path}, line {number}: {name} has a line already; delete one of them")
            try:
                values[name] = value_of(words)
            except ValueError as error:
                raise BadMedia(
                    f"{path}, line {number}: expected {error}, got {line.strip()!r}; correct the line"
                ) from error
        return values


def _intervals(words: list[str]) -> list[Interval]:
    expected = "a name and intervals such as 00:30-01:00"
    if not words:
        raise ValueError(expected)
    intervals = []
    for word in words:
        try:
            start_s, stop_s = map(_seconds, word.split("-"))
        except ValueError as error:
            raise ValueError(expected) from error
        if stop_s <= start_s:
            raise ValueError("intervals that end after they begin")
        intervals.append((start_s, stop_s))
    return intervals


def _seconds(clock: str) -> int:
    """Of `minutes:seconds` or `hours:minutes:seconds`."""
    parts = clock.split(":")
    if len(parts) not in (2, 3) or not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError(clock)
    seconds = 0
    for part in parts:
        seconds = 60 * seconds + int(part)
    return seconds


def _crop(words: list[str]) -> Crop:
    """The lists have left, width, top, height."""
    expected = "a name and left, width, top and height in pixels"
    if len(words) != 4 or not all(word.isascii() and word.isdigit() for word in words):
        raise ValueError(expected)
    left, width, top, height = map(int, words)
    if not width * height:
        raise ValueError(expected)
    return left, top, width, height


def _height(words: list[str]) -> int:
    if len(words) != 1 or not (words[0].isascii() and words[0].isdigit()):
        raise ValueError("a name and the video's height in pixels")
    return int(words[0])


def _url(words: list[str]) -> str:
    if len(words) != 1:
        raise ValueError("a name and an address")
    return words[0]


def _crop_fits(clip: ListedClip) -> bool:
    """Whether the crop lies inside a video of the stated height; its width is not stated."""
    if clip.crop is None or not clip.crop_height:
        return False
    _, top, _, height = clip.crop
    return top + height <= clip.crop_height


def _one_after_the_other(intervals: list[Interval], video: str) -> list[Interval]:
    """The intervals, none beginning before its predecessor ends. Raises: BadMedia, if one lies in those before it altogether."""
    result: list[Interval] = []
    for start_s, stop_s in intervals:
        begin_s = max(start_s, result[-1][1] if result else 0)
        if begin_s >= stop_s:
            raise BadMedia(
                f"HDTF's intervals of {video} are out of order at {start_s}-{stop_s} s; correct {video.split('/')[0]}_{_TIMES}.txt"
            )
        if begin_s != start_s:
            log.warning(
                "%s: the interval %d-%d s begins inside the one before it; taken from %d s",
                video,
                start_s,
                stop_s,
                begin_s,
            )
        result.append((begin_s, stop_s))
    return result
