"""Which videos become shards, and by which steps."""

import re
from dataclasses import dataclass, fields, is_dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadConfig
from lipsync_lightning.media.people import People
from lipsync_lightning.preparation.filters.check import Check
from lipsync_lightning.preparation.sources import Sources
from lipsync_lightning.preparation.split import Split

if TYPE_CHECKING:  # a worker imports no step, and none of its networks, that its recipe does without
    from lipsync_lightning.media.shots import AdaptiveShots
    from lipsync_lightning.preparation.filters.quality import QualityFilter
    from lipsync_lightning.preparation.filters.sync import SyncFilter


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One data set: where its videos lie, how they are cut, and what is thrown away."""

    name: str  # of the data set; the first part of every clip's id
    source: str  # folder in which they lie
    sources: Sources
    split: Split
    heldout_end: float | None = None  # share of each video's time, its end, that is held out; None: none
    check: Check
    shots: "AdaptiveShots | None"  # None: every video is one shot
    people: People
    min_seconds: float  # shorter stretches with a face and sound are rejected
    max_seconds: float  # longer ones are cut
    sync: "SyncFilter | None"  # None: every clip is kept as it is, unmeasured
    quality: "QualityFilter | None"  # None: every clip is kept, unmeasured

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-]+", self.name):
            raise BadConfig(f"recipe.name={self.name!r} begins every clip's id: only letters, digits, `_` and `-`")
        if self.heldout_end is not None and not 0 < self.heldout_end < 1:
            told = f"recipe.heldout_end={self.heldout_end} is the share of each video that is held out"
            raise BadConfig(f"{told}; give a number between 0 and 1, such as 0.1")
        if not 0 < self.min_seconds <= self.max_seconds:
            told = f"got {self.min_seconds} and {self.max_seconds}"
            raise BadConfig(f"recipe: need 0 < min_seconds <= max_seconds, {told}")

    def shortest(self, clip: ClipSpec) -> int:
        """Return the fewest frames a clip may have."""
        return max(ceil(self.min_seconds * clip.fps), clip.num_frames)

    def longest(self, clip: ClipSpec) -> int:
        """Return the most frames a clip may have."""
        return max(int(self.max_seconds * clip.fps), self.shortest(clip))

    def rule(self, clip: ClipSpec) -> dict[str, Any]:
        """Return, as plain values, all settings that decide what becomes of a source: one folder, one rule."""
        parts = {part: getattr(self, part) for part in ("split", "check", "shots", "people", "sync", "quality")}
        return {
            "name": self.name,
            "clip": {name: getattr(clip, name) for name in ("fps", "resolution", "sample_rate_hz")},
            "frames": [self.shortest(clip), self.longest(clip)],
            "heldout_end": self.heldout_end,
            **{name: _plain(part) for name, part in parts.items()},
        }


def clip_id(dataset: str, source_name: str, first_frame: int, person: int) -> str:
    """Return the id of one clip: data set, source, first frame and person.

    It has no dots, at the first of which a shard's key would end, and no backslashes.
    """
    escaped = source_name.replace("%", "%25").replace(".", "%2E").replace("\\", "%5C")
    return f"{dataset}/{escaped}/{first_frame:06d}-{person}"


def _plain(part: Any) -> Any:
    if is_dataclass(part):
        settings = {each.name: _plain(getattr(part, each.name)) for each in fields(part)}
        return {"kind": type(part).__name__, **settings}
    return getattr(part, "version", part)
