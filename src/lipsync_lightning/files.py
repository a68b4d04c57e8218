"""Where the library's own files lie, and how it writes files: whole or not at all."""

import csv
import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Any

from lipsync_lightning.errors import BadConfig, WouldOverwrite

_HERE = Path(__file__).resolve()
CONF_DIR = next(parent / "conf" for parent in _HERE.parents if (parent / "conf").is_dir())  # of a wheel or a checkout
VIDEO_ENDINGS = (".mp4", ".mkv", ".webm", ".mov", ".m4v", ".avi", ".ts", ".mts", ".flv")  # in any case
PLUGINS = "lipsync_lightning.conf"  # entry points of other packages, whose values are their packages of YAML
_LOCK = ".lock"  # in a folder where a process works, or has worked: which
_OWNED: set[Path] = set()  # locks that this process holds
_WRITTEN_HERE = ".lipsync_lightning.json"  # in a folder that this library wrote: the files it wrote there


def weights_dir() -> Path:
    """Return the folder of downloaded weights.

    `$LIPSYNC_WEIGHTS`, else `weights` in the working directory, if it is there, else `weights` of the checkout that
    this is, else, of an installed package, a folder of the user's cache.
    """
    if given := os.environ.get("LIPSYNC_WEIGHTS"):
        return Path(given)
    if Path("weights").is_dir():
        return Path("weights")
    if (CONF_DIR.parent / "pyproject.toml").is_file():
        return CONF_DIR.parent / "weights"
    return Path.home() / ".cache" / "lipsync_lightning" / "weights"


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield an empty file that becomes `path` when the block ends; after an exception a former one is as it was.

    Links stay: what they lead to is replaced. What is written to `/dev/null` is thrown away.
    Raises: WouldOverwrite, before the block, if `path` is a folder, a device or a pipe.
    """
    if path.exists() and not path.is_file():
        if not path.samefile(os.devnull):
            kind = "a folder" if path.is_dir() else "a device or a pipe, which is never replaced"
            raise WouldOverwrite(f"{path} is {kind}; give the name of a file")
        with TemporaryDirectory() as folder:
            yield Path(folder, "thrown_away")
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name[:40]}.{token_hex(4)}.part")
    try:
        part.touch(exist_ok=False)
        if path.exists():
            shutil.copymode(path, part)
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)  # half a file would keep a full disk full


def write_atomically(path: Path, data: bytes) -> Path:
    """Write `data` to `path`, making its folder, and return the path; a reader never sees half of it."""
    with whole_file(path) as part:
        part.write_bytes(data)
    return path


def csv_rows(path: Path, what: str, needed: set[str], known: set[str]) -> list[dict[str, str]]:
    """Return the rows of a csv file, by the names of its columns; cells may be empty, but for needed ones.

    Args: what: names the file in errors. Raises: BadConfig, for anything else, naming the row.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file, skipinitialspace=True, restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadConfig(f"{what}={path} cannot be read ({error}); give a csv file") from error
    if not rows or not needed <= rows[0].keys() <= known | {None}:
        found = ",".join(map(str, rows[0])) if rows else "no row"
        told = f"{what}={path} has {found}; its columns must be {','.join(sorted(needed))}"
        more = f", and may be {','.join(sorted(known - needed))}" if known - needed else ""
        raise BadConfig(f"{told}{more}")
    for number, row in enumerate(rows, 2):
        if None in row:
            raise BadConfig(f"{what}={path}, row {number} has more cells than columns; quote those with commas")
        if missing := [name for name in sorted(needed) if not row[name]]:
            raise BadConfig(f"{what}={path}, row {number} says nothing of {', '.join(missing)}")
    return rows


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Keep other processes, of this machine and of others that share the disk, from working in a folder meanwhile.

    The lock is the operating system's, so a crash frees it at once; data workers that are forked do not hold it.
    Raises: WouldOverwrite, before the block, if a process is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / _LOCK
    if path in _OWNED:  # which the system's locks, being of a process, would not see
        raise WouldOverwrite(f"this process is at work in {folder} already; choose another folder")
    with path.open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise WouldOverwrite(f"{owner} is at work in {folder}; wait for it, or choose another folder") from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        _OWNED.add(path)
        try:
            yield
        finally:
            _OWNED.remove(path)


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `out` when the block ends and vanishes when it fails.

    Raises: WouldOverwrite, before the block, if `out` holds anything that its own list of written files does not name.
    """
    out = out.resolve()  # a link to a larger disk stays a link
    part, former = (out.with_name(f".{out.name}.lipsync-{kind}") for kind in ("part", "former"))
    if former.exists() and not out.exists():
        former.replace(out)  # a process died between the two renamings below
    if out.is_file():
        raise WouldOverwrite(f"out={out} is a file; give the name of a folder")
    listing = out / _WRITTEN_HERE
    try:
        ours = {listing, *(out / name for name in json.loads(listing.read_text()))}
    except (OSError, ValueError):
        ours = set()
    foreign = sorted(path for path in out.rglob("*") if not path.is_dir() and path not in ours)
    if foreign:
        holds = f"out={out} holds files that were not written here, such as {foreign[0].relative_to(out)}"
        raise WouldOverwrite(f"{holds}; choose another name")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        files = sorted(path for path in part.rglob("*") if path.is_file())
        listing = part / _WRITTEN_HERE
        listing.write_text(json.dumps([str(path.relative_to(part)) for path in files], indent=1))
        for path in files:
            path.chmod(listing.stat().st_mode)  # temporary files, for one, are made for their owner alone
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    shutil.rmtree(former, ignore_errors=True)
    if out.exists():
        out.replace(former)
    part.replace(out)
    shutil.rmtree(former, ignore_errors=True)
