"""Which videos become shards, and by which steps."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import Protocol

import numpy as np

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadConfig
from lipsync_lightning.media.people import People
from lipsync_lightning.preparation.filters.check import Check
from lipsync_lightning.preparation.sources import Sources
from lipsync_lightning.preparation.split import Split
from lipsync_lightning.preparation.verdict import AlignedClip, Rejected

_NAME = re.compile(r"[\w-]+")


class Shots(Protocol):
    """Tells where a video was cut."""

    name: str  # of the step in the ledger

    @property
    def version(self) -> str:
        """Changes with every setting, and with what the step means."""
        ...

    def __call__(self, frames: Iterable[np.ndarray], fps: float) -> Iterator[tuple[np.ndarray, bool]]:
        """Yield every frame (H, W, 3), with whether a shot begins with it."""
        ...


class ClipStep(Protocol):
    """Lets a clip pass, perhaps mended, or rejects it."""

    name: str  # of the step in the ledger

    @property
    def version(self) -> str:
        """Changes with every setting, and with what the step means."""
        ...

    def __call__(self, clip: AlignedClip) -> AlignedClip | Rejected: ...


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One data set: where its videos lie, how they are cut, and what is thrown away."""

    name: str  # of the data set; the first part of every clip's id
    source: str  # folder in which they lie
    sources: Sources
    split: Split
    check: Check
    shots: Shots
    people: People
    min_seconds: float  # shorter stretches with a face and sound are rejected
    max_seconds: float  # longer ones are cut
    sync: ClipStep
    quality: ClipStep

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise BadConfig(
                f"recipe.name={self.name!r}: letters, digits, `_` and `-` only, because it begins every clip's id"
            )
        if not 0 < self.min_seconds <= self.max_seconds:
            raise BadConfig(
                f"recipe {self.name}: need 0 < min_seconds <= max_seconds, got {self.min_seconds} and {self.max_seconds}"
            )

    def shortest(self, clip: ClipSpec) -> int:
        """Return the fewest frames a clip may have."""
        return max(ceil(self.min_seconds * clip.fps), clip.num_frames)

    def longest(self, clip: ClipSpec) -> int:
        """Return the most frames a clip may have."""
        return max(int(self.max_seconds * clip.fps), self.shortest(clip))

    def versions(self, clip: ClipSpec) -> dict[str, str]:
        """Return the version of each step, in order. A row of the ledger holds as long as its steps have the versions it was made by."""
        segments = f"1 {self.shortest(clip)}-{self.longest(clip)} frames at {clip.fps} fps, {clip.sample_rate_hz} Hz"
        return {
            self.check.name: self.check.version,
            self.shots.name: self.shots.version,
            "faces": f"1 {self.people.version} resolution={clip.resolution}",
            "segments": segments,
            self.sync.name: self.sync.version,
            "sound": "1",
            self.quality.name: self.quality.version,
        }


def clip_id(dataset: str, source_name: str, first_frame: int, person: int) -> str:
    """Return the id of one clip: data set, source, first frame and person. It has no dots, at the first of which a
    shard's key would end, and no backslashes."""
    return f"{dataset}/{_escaped(source_name)}/{first_frame:06d}-{person}"


def _escaped(name: str) -> str:
    return name.replace("%", "%25").replace(".", "%2E").replace("\\", "%5C")
