"""Files that are whole or not there."""

from pathlib import Path


def write_atomically(path: Path, data: bytes) -> Path:
    """Write `data` to `path`, making its folder, and return the path; a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    return part.replace(path)
