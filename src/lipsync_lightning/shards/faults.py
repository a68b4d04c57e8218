"""What can be wrong with shards and with the clips in them."""

import re
from collections.abc import Iterable
from enum import StrEnum

from lipsync_lightning.errors import BrokenShard

_KEY_PART = re.compile(r"[^./\\\0]+")
_SUFFIX = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")
_DRIVE = re.compile(r"[A-Za-z]:")


class Reason(StrEnum):
    """Why a shard, or a clip of one, is not read."""

    MISSING = "missing"
    NO_SIDECAR = "without sidecar"
    NOT_OURS = "sidecar not ours"
    TRUNCATED = "truncated"
    WRONG_SIZE = "wrong size"
    SWAPPED = "swapped"
    CORRUPT = "corrupt"
    TWICE = "there twice"
    UNSAFE = "unsafe name"
    INCOMPLETE = "member missing"
    UNREACHABLE = "unreachable"
    UNDECODABLE = "undecodable"
    TOO_SHORT = "too short"


class ShardFault(BrokenShard):
    """A shard that is bad as a whole."""

    def __init__(self, message: str, reason: Reason = Reason.CORRUPT) -> None:
        super().__init__(message)
        self.reason = reason


class ClipFault(BrokenShard):
    """A clip that is bad, in a shard whose other clips may be good."""

    def __init__(self, message: str, reason: Reason = Reason.CORRUPT) -> None:
        super().__init__(message)
        self.reason = reason


def require_safe_names(key: str, suffixes: Iterable[str], source: object) -> None:
    """Raises: ShardFault, if `{key}.{suffix}` could name a file outside a folder, or be taken for that of another clip."""
    if _DRIVE.match(key) or not all(_KEY_PART.fullmatch(part) for part in key.split("/")):
        raise ShardFault(
            f"{source}: a clip may not be called {key!r} (no absolute path, no empty part, no dot or backslash in it)",
            Reason.UNSAFE,
        )
    for suffix in suffixes:
        if not _SUFFIX.fullmatch(suffix):
            raise ShardFault(
                f"{source}: a member of {key} may not end in {suffix!r} (lower-case words between dots)", Reason.UNSAFE
            )
