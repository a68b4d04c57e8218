"""Reading a local shard from end to end, to see that it holds what its sidecar says."""

import tarfile
from pathlib import Path

from lipsync_lightning.errors import BrokenShard
from lipsync_lightning.files import sha256_of
from lipsync_lightning.shards.format import MAKE_AGAIN, Sidecar, read_sidecar, require_safe_name


def verify_shard(path: Path) -> Sidecar:
    """Return a shard's sidecar, if the shard holds exactly what that says, under names that are safe.

    Raises: BrokenShard, with what is wrong.
    """
    sidecar = read_sidecar(path)
    sidecar.require_fits(path.stat().st_size if path.exists() else None, sidecar.clip)
    try:
        with tarfile.open(path, "r:") as archive:
            members = [(member.name, member.offset_data, member.size) for member in archive if member.isreg()]
            num_others = len(archive.getmembers()) - len(members)
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        raise BrokenShard(f"{path} cannot be read ({error}); {MAKE_AGAIN}") from error
    for name, _, _ in members:
        key, _, suffix = name.partition(".")
        require_safe_name(key, suffix, path)
    if num_others or len(members) > len({name for name, _, _ in members}):
        raise BrokenShard(f"{path} has links, or the same name twice; it was not made by `prepare`", "unsafe name")
    stated = {
        (f"{key}.{suffix}", first, size)
        for key, places in zip(sidecar.keys.tolist(), sidecar.places.tolist(), strict=True)
        for suffix, (first, size, _) in zip(sidecar.suffixes, places, strict=True)
        if first >= 0
    }
    differing = sorted({name for name, _, _ in stated.symmetric_difference(members)})
    if differing:
        raise BrokenShard(
            f"{path} and its sidecar differ in {len(differing)} members, the first is {differing[0]}; {MAKE_AGAIN}"
        )
    if sha256_of(path) != sidecar.sha256:
        raise BrokenShard(f"{path} has another sha256 than its sidecar says; {MAKE_AGAIN}")
    return sidecar
