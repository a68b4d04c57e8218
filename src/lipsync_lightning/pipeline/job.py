"""A job that can be killed: scenes that are finished are kept beside the result until it is whole."""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lipsync_lightning.errors import WouldOverwrite
from lipsync_lightning.files import owned, write_atomically

_RECORD = "job.json"


@contextmanager
def job_folder(out: Path, recipe: Mapping[str, Any]) -> Iterator[Path]:
    """Yield a folder for a result's scenes, with those that an earlier, interrupted job of the same recipe finished.

    It lies beside `out` and vanishes when the block ends; if that fails, it stays as long as a scene is in it.
    Raises: WouldOverwrite, if another process is making the same `out`.
    """
    if out.exists() and not out.is_file():
        with TemporaryDirectory() as folder:
            yield Path(folder)
        return
    out = out.resolve()
    folder = out.with_name(f".{out.name}.job")
    with ExitStack() as stack:
        try:
            stack.enter_context(owned(folder))
        except WouldOverwrite as error:
            raise WouldOverwrite(f"out={out} is being made already ({error})") from error
        record = folder / _RECORD
        wanted = json.dumps(recipe, sort_keys=True).encode()
        if not (record.is_file() and record.read_bytes() == wanted):
            for old in folder.glob("*.mp4"):
                old.unlink()
            write_atomically(record, wanted)
        try:
            yield folder
        except BaseException:
            if any(folder.glob("*.mp4")):
                print(f"finished scenes are kept in {folder}; the same command goes on there", file=sys.stderr)
            else:
                shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)
