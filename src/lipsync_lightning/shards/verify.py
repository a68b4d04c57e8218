"""Reading a shard from end to end, to see that it holds what its sidecar says."""

import tarfile
from pathlib import Path

from webdataset.tariterators import base_plus_ext

from lipsync_lightning.files import sha256_of
from lipsync_lightning.shards.faults import Reason, ShardFault, require_safe_names
from lipsync_lightning.shards.format import Sidecar, read_sidecar, require_first_key

_MAKE_AGAIN = "copy it again, or delete it and run `prepare` again"


def check_tar(path: Path) -> Sidecar:
    """Read a local shard from end to end, and return its sidecar if the shard holds exactly what that says, under names that are safe.

    Raises: ShardFault, with what is wrong.
    """
    sidecar = read_sidecar(path)
    try:
        members = _members_of(path)
        same_bytes = path.stat().st_size == sidecar.num_bytes and sha256_of(path) == sidecar.sha256
    except FileNotFoundError as error:
        raise ShardFault(f"{path} is missing, its sidecar is there", Reason.MISSING) from error
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        raise ShardFault(f"{path} cannot be read: {error}; {_MAKE_AGAIN}", _cut_or_corrupt(path, sidecar)) from error
    told = {
        f"{key}.{suffix}": (int(first), int(size))
        for key, places in zip(sidecar.keys.tolist(), sidecar.places, strict=True)
        for suffix, (first, size, _) in zip(sidecar.suffixes, places, strict=True)
        if first >= 0
    }
    if members != told:
        with path.open("rb") as file:
            require_first_key(file, sidecar.keys, path)
        differing = sorted(name for name in members.keys() | told.keys() if members.get(name) != told.get(name))
        told_of = f"{len(differing)} members differ, the first is {differing[0]}"
        raise ShardFault(
            f"{path} does not hold what its sidecar says: {told_of}; {_MAKE_AGAIN}", _cut_or_corrupt(path, sidecar)
        )
    if not same_bytes:
        raise ShardFault(f"{path} has another sha256 than its sidecar says; {_MAKE_AGAIN}", Reason.CORRUPT)
    return sidecar


def _cut_or_corrupt(path: Path, sidecar: Sidecar) -> Reason:
    return Reason.TRUNCATED if path.is_file() and path.stat().st_size < sidecar.num_bytes else Reason.CORRUPT


def _members_of(path: Path) -> dict[str, tuple[int, int]]:
    """Return first byte and number of bytes of each file in a tar, by its name. Raises: ShardFault, if any name is unsafe."""
    found: dict[str, tuple[int, int]] = {}
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            key, suffix = base_plus_ext(member.name)
            require_safe_names(key or member.name, [suffix] if suffix else [], path)
            if not member.isreg() or member.name in found:
                what = "is there twice" if member.isreg() else "is not a plain file"
                raise ShardFault(f"{path}: {member.name} {what}; such a tar was not made by `prepare`", Reason.UNSAFE)
            found[member.name] = (member.offset_data, member.size)
    return found
