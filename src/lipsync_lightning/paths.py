"""Where the library's own files lie."""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_IN_CHECKOUT = _PACKAGE.parents[1] / "conf"
_IN_WHEEL = _PACKAGE / "conf"

CONF_DIR = _IN_WHEEL if _IN_WHEEL.is_dir() else _IN_CHECKOUT


def weights_dir() -> Path:
    """The folder of downloaded weights: `$LIPSYNC_WEIGHTS`, or `weights` in the working directory."""
    return Path(os.environ.get("LIPSYNC_WEIGHTS", "weights"))
