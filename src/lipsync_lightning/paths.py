"""Where the library's own files lie, and how it writes files."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lipsync_lightning.errors import WouldOverwrite

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


@contextmanager
def whole_folder(out: Path, marker: str) -> Iterator[Path]:
    """Yield an empty folder that becomes `out` when the block ends, and vanishes when it fails; a former `out` stays until then.

    Args: marker: a file that every folder of this kind holds; only such a folder, or an empty one, is replaced.
    Raises: WouldOverwrite, before the block, if `out` is something else.
    """
    if out.exists() and not (out / marker).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise WouldOverwrite(f"out={out} exists and holds something else (no {marker} in it); choose another name")
    part, former = (out.with_name(out.name + ending) for ending in (".part", ".former"))
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    if out.exists():
        out.replace(former)
    part.replace(out)
    shutil.rmtree(former, ignore_errors=True)
