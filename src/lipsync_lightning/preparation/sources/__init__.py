"""Which videos a data set has: a class for each way in which data sets say so."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Source:
    """One stretch of one video that is to be prepared."""

    name: str  # unique in the data set and the same everywhere: relative, with `/`
    video: Path
    audio: Path | None = None  # where the sound lies that belongs to the video; None for the video's own
    start_s: float = 0.0  # seconds after the video's first frame
    stop_s: float | None = None  # None for its end
    crop: tuple[int, int, int, int] | None = None  # left, top, width, height in an upright picture `crop_height` high
    crop_height: int | None = None  # pixels; None where `crop` counts in the video's own


class Sources(ABC):
    """All sources of a data set."""

    @abstractmethod
    def all(self) -> list[Source]:
        """Return the sources, sorted by name. Raises: BadMedia, if folder or lists are missing or unreadable."""

    def missing(self) -> Collection[str]:
        """Return the names of sources that the data set has but this folder has not.

        Whether somebody is held out must not hang on which videos could be downloaded, so a split is given these too.
        """
        return ()
