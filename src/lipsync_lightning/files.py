"""Where the library's own files lie, and how it writes files."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lipsync_lightning.errors import NoSpace, WouldOverwrite

_PACKAGE = Path(__file__).resolve().parent
_IN_CHECKOUT = _PACKAGE.parents[1] / "conf"
_IN_WHEEL = _PACKAGE / "conf"

_SIGNATURE = ".lipsync_lightning.json"  # in a folder that this library wrote: what it wrote there

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


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `out` when the block ends, and vanishes when it fails; a former `out` stays until then.

    What was written is listed in the folder itself. Only a folder that was written here, with nothing added since, or an empty one, is
    replaced.
    Raises: WouldOverwrite, before the block, if `out` is something else.
    """
    out = out.resolve()  # a link to a larger disk stays a link
    part, former = (out.with_name(f".{out.name}.lipsync-{what}") for what in ("part", "former"))
    if former.exists() and not out.exists():
        former.replace(out)  # a process died between the two renamings below
    _require_replaceable(out)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        _sign(part)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    shutil.rmtree(former, ignore_errors=True)
    if out.exists():
        out.replace(former)
    part.replace(out)
    shutil.rmtree(former, ignore_errors=True)


@contextmanager
def whole_file(out: Path) -> Iterator[Path]:
    """Yield a path whose file becomes `out` when the block ends, and vanishes when it fails. Raises: WouldOverwrite, if `out` exists."""
    out = out.resolve()
    if out.exists():
        raise WouldOverwrite(f"{out} exists; choose another out=")
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.lipsync-part")
    try:
        yield part
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    part.replace(out)


def require_space(out: Path, num_bytes: int) -> None:
    """Raises: NoSpace, if the disk that `out` is to lie on has less than `num_bytes` free."""
    existing = next(parent for parent in out.resolve().parents if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        raise NoSpace(
            f"{out} needs {num_bytes / 1e9:.1f} GB, {existing} has {free / 1e9:.1f} GB free; make room or choose another out="
        )


def _require_replaceable(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise WouldOverwrite(f"out={out} is a file; give the name of a folder")
    there = {str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir()}
    if not there:
        return
    try:
        ours = {_SIGNATURE, *json.loads((out / _SIGNATURE).read_text())}
    except (OSError, ValueError):
        ours = set()
    foreign = sorted(there - ours)
    if foreign:
        raise WouldOverwrite(
            f"out={out} exists and holds what was not written here, such as {foreign[0]}; choose another name"
        )


def _sign(folder: Path) -> None:
    """List the files of a folder in it, and let everybody read them who may read other new files."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    (folder / _SIGNATURE).write_text(json.dumps(sorted(str(path.relative_to(folder)) for path in files), indent=1))
    mode = (folder / _SIGNATURE).stat().st_mode
    for path in files:
        path.chmod(mode)
