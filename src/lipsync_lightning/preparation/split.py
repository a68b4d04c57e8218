"""Which sources are held out, for validation and tests: by rule instead of by list."""

import hashlib
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Protocol

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.media.video import probe
from lipsync_lightning.preparation.filters import Rejected
from lipsync_lightning.preparation.sources import Source

# Suffixes of files that hold no video. A list of our own: mimetypes differ between machines.
_NO_VIDEO = re.compile(
    r"\.(txt|md|csv|tsv|html|xml|yaml|yml|srt|vtt|ass|pdf|py|sh|log|jpg|jpeg|png|webp|bmp|tif|tiff|wav|flac|mp3|m4a|aac|"
    r"ogg|opus|npy|npz|pt|pkl|h5|zip|tar|gz|tgz|7z|rar|parquet)$",
    re.IGNORECASE,
)

_SOUND_ENDS_BEFORE_S = 0.48  # of many videos, before the picture does: their end must be a clip all the same
END = "/end"  # follows the name of a video, below which no other source can lie


class Split(Protocol):
    """Decides which sources are held out, from their names alone, so that everyone holds out the same."""

    def identity_of(self, name: str) -> str:
        """Return what must be on one side as a whole. Raises: BadConfig, if the name does not tell."""
        ...

    def heldout(self, identities: set[str]) -> set[str]:
        """Return those of the identities that are held out."""
        ...


@dataclass(frozen=True, kw_only=True)
class SplitByFolder:
    """Holds out everything below one top folder of the source."""

    heldout_folder: str

    def identity_of(self, name: str) -> str:
        return name.split("/")[0]

    def heldout(self, identities: set[str]) -> set[str]:
        return identities & {self.heldout_folder}


@dataclass(frozen=True, kw_only=True)
class SplitByHash:
    """Holds out the identities with the smallest sha256 of `lipsync-test-1:<identity>`."""

    num_heldout: int  # identities to hold out; 0 for none
    identity: str  # a regular expression; what it matches in a source's name is the identity

    def __post_init__(self) -> None:
        if self.num_heldout < 0 or not isinstance(self.identity, str):
            told = f"split.num_heldout={self.num_heldout} split.identity={self.identity}"
            raise BadConfig(f"{told}: give 0 or more identities, and a regular expression")

    def identity_of(self, name: str) -> str:
        found = re.search(self.identity, name)
        if found is None:
            raise BadConfig(f"'{self.identity}' matches nothing in '{name}'; change the recipe's split.identity")
        return found.group(0)

    def heldout(self, identities: set[str]) -> set[str]:
        by_hash = sorted(identities, key=lambda each: hashlib.sha256(f"lipsync-test-1:{each}".encode()).hexdigest())
        if 0 < len(identities) <= self.num_heldout:
            told = f"split.num_heldout={self.num_heldout} holds out all {len(identities)} identities"
            warnings.warn(f"{told}: nothing is left to train on", stacklevel=2)
        return set(by_hash[: self.num_heldout])


def sides(split: Split, names: Iterable[str], planned: Mapping[str, bool]) -> dict[str, bool]:
    """Return for each name whether it is held out.

    Identities are chosen among names that may be videos; a text file would make a poor test clip, but follows its
    identity.
    Args: planned: names that have their side for good, and their identity with them.
    Raises: BadConfig, if a video's name does not tell its identity.
    """
    wanted = {*names, *planned}
    identity_of: dict[str, str] = {}
    videos = {name for name in wanted if not _NO_VIDEO.search(name)}
    for name in sorted(wanted):
        try:
            identity_of[name] = split.identity_of(name)
        except BadConfig:
            if name in videos:  # otherwise a readme, or the like
                raise
    chosen = split.heldout({identity_of[name] for name in videos})
    side_of = {identity: identity in chosen for identity in identity_of.values()}
    side_of |= {identity_of[name]: side for name, side in planned.items() if name in videos}
    return {name: side_of.get(identity_of.get(name, ""), False) for name in wanted} | dict(planned)


def divided(source: Source, share: float, *, fps: int, shortest: int) -> tuple[Source, Source]:
    """Return a source without its end, and its end as a source of its own, to be held out.

    Args: share: of the time; shortest: the fewest frames, at `fps`, that either may have.
    Raises: Rejected, if it is too short for that; BadMedia, if it is no video.
    """
    stop_s = min(probe(source.video).duration_s, source.stop_s or inf)
    num_frames = int((stop_s - source.start_s) * fps)
    shortest_end = shortest + round(_SOUND_ENDS_BEFORE_S * fps)
    if num_frames < shortest + shortest_end:
        needed = f"at least {(shortest + shortest_end) / fps:g} needed to hold out its end"
        told = f"{num_frames / fps:.2f} s of picture, {needed}"
        raise Rejected("check", f"{told}; give a longer video, or recipe.heldout_end=null")
    num_last = min(max(round(share * num_frames), shortest_end), num_frames - shortest)
    cut_s = source.start_s + (num_frames - num_last) / fps
    return replace(source, stop_s=cut_s), replace(source, name=source.name + END, start_s=cut_s)
