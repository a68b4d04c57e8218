"""Where the library's own files lie, and how it writes files."""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_IN_CHECKOUT = _PACKAGE.parents[1] / "conf"
_IN_WHEEL = _PACKAGE / "conf"

CONF_DIR = _IN_WHEEL if _IN_WHEEL.is_dir() else _IN_CHECKOUT


def weights_dir() -> Path:
    """The folder of downloaded weights: `$LIPSYNC_WEIGHTS`, or `weights` in the working directory."""
    return Path(os.environ.get("LIPSYNC_WEIGHTS", "weights"))


def write_atomically(path: Path, data: bytes) -> Path:
    """Write `data` to `path`, making its folder, and return the path; a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    return part.replace(path)
