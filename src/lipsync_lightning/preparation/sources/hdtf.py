"""HDTF: intervals of videos, as its authors' lists name them."""

import logging
import re
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.files import VIDEO_ENDINGS
from lipsync_lightning.preparation.sources import Source, Sources

PARTS = ("RD", "WDA", "WRA")
_VIDEO_SUFFIXES = (*VIDEO_ENDINGS, *map(str.upper, VIDEO_ENDINGS))  # the first one there is taken
_INTERVAL = r"(\d+:)?\d+:\d+-(\d+:)?\d+:\d+"
_LINES = {  # of each list: what follows the name
    "annotion_time": (rf"{_INTERVAL}( {_INTERVAL})*", "intervals such as 00:30-01:00"),
    "crop_wh": (r"\d+ [1-9]\d* \d+ [1-9]\d*", "left, width, top and height in pixels"),
    "resolution": (r"\d+", "the video's height in pixels"),
    "video_url": (r"\S+", "an address"),
}
_NUM_EXAMPLES = 3

log = logging.getLogger(__name__)


class HdtfSources(Sources):
    """One source for each listed interval whose video is there: `RD/Radio11_0` is the first of `RD/Radio11.mp4`.

    The lists are those of the authors' repository, `<part>_annotion_time.txt` and so on, for the parts RD, WDA and WRA.
    Where they contradict themselves this is what is done:

    - a clip without crop, or whose crop reaches below the stated height of its video (which therefore was not that of
      the video in which it was measured), or whose video has no stated height, has none: the whole picture is used;
    - an interval that begins before the one before it ends begins where that one ends, which is logged.

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
            told = f"none of HDTF's videos lies in {self.root!r}, such as {first.video}"
            raise BadMedia(f"{told}; download them (data_recipes/hdtf/README.md), their folder is recipe.source")
        if missing:
            urls = {f"{part}/{video}": url for part in PARTS for video, (url,) in self._read(part, "video_url").items()}
            examples = [f"{name} ({urls.get(name.rpartition('_')[0], '')})" for name in missing[:_NUM_EXAMPLES]]
            counts = len(missing), len(self._listed)
            log.warning("%d of %d clips have no video in %s, such as %s", *counts, self.root, ", ".join(examples))
        return [self._listed[name] for name in sorted(self._listed.keys() - set(missing))]

    def missing(self) -> list[str]:
        """Return the names of clips whose video is not there. Raises: BadMedia, if a list is missing or unreadable."""
        return [name for name, source in self._listed.items() if not source.video.exists()]

    @cached_property
    def _listed(self) -> dict[str, Source]:
        """All clips in the lists by name, whether their videos are there or not."""
        found: dict[str, Source] = {}
        for part in PARTS:
            crops, heights = self._read(part, "crop_wh"), self._read(part, "resolution")
            for video, intervals in self._read(part, "annotion_time").items():
                paths = [Path(self.root, part, f"{video}{suffix}") for suffix in _VIDEO_SUFFIXES]
                path = next((path for path in paths if path.exists()), paths[0])
                end_s = 0
                for number, interval in enumerate(intervals):
                    begin_s, stop_s = map(_seconds, interval.split("-"))
                    start_s, end_s = max(begin_s, end_s), stop_s
                    if start_s >= stop_s:
                        told = f"HDTF's intervals of {part}/{video} are out of order at {begin_s}-{stop_s} s"
                        raise BadMedia(f"{told}; correct {part}_annotion_time.txt")
                    if start_s != begin_s:
                        told = "%s/%s: the interval %d-%d s begins inside the one before it; taken from %d s"
                        log.warning(told, part, video, begin_s, stop_s, start_s)
                    name = f"{part}/{video}_{number}"
                    source = Source(name=name, video=path, start_s=start_s, stop_s=stop_s)
                    if f"{video}_{number}" in crops and video in heights:
                        left, width, top, height = map(int, crops[f"{video}_{number}"])
                        measured_in = int(heights[video][0])
                        if top + height <= measured_in:
                            source = replace(source, crop=(left, top, width, height), crop_height=measured_in)
                    found[name] = source
        if not found:
            raise BadMedia(f"HDTF's lists in {self.lists!r} name no interval; get them again")
        return found

    def _read(self, part: str, which: str) -> dict[str, list[str]]:
        """Return the words of each line of one list, by the name at its beginning."""
        path = Path(self.lists, f"{part}_{which}.txt")
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()  # one of them begins with a byte order mark
        except (OSError, UnicodeDecodeError) as error:
            told = f"{path} cannot be read: {error}; give the folder with HDTF's lists as recipe.sources.lists"
            raise BadMedia(told) from error
        pattern, expected = _LINES[which]
        values: dict[str, list[str]] = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            name, *words = line.split()
            name = name.removesuffix(".mp4")  # which some lists put after a name
            if name in values:
                raise BadMedia(f"{path}, line {number}: {name} has a line already; delete one of them")
            if not re.fullmatch(pattern, " ".join(words), re.ASCII):
                told = f"expected a name and {expected}, got {line.strip()!r}"
                raise BadMedia(f"{path}, line {number}: {told}; correct the line")
            values[name] = words
        return values


def _seconds(clock: str) -> int:
    return sum(int(part) * 60**place for place, part in enumerate(reversed(clock.split(":"))))
