"""Fetch pinned files from the Hugging Face hub: right to the byte under their final names, or not there at all."""

import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # of whichever HTTP library the installed huggingface_hub uses
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import WeakFileLock
from tqdm.auto import tqdm

from lipsync_lightning.errors import BadConfig, MissingWeights, WouldOverwrite, WrongWeights
from lipsync_lightning.files import write_atomically
from lipsync_lightning.models.hub_pins import SHA256, HubFile, HubSource, Pin
from lipsync_lightning.models.hub_transfer import describe, transfer

SIDECAR = ".verified.json"
STAGING = ".fetch"
_CHUNK_BYTES = 1 << 20


def pinned_now(repo: str, path: str, folder: str, *, endpoint: str | None = None) -> HubSource:
    """Return the pin of one large file as it stands at the head of a repository's main branch now.

    Raises: MissingWeights, if the hub cannot be asked or has no such file; BadConfig, if it does not say the file's sha256.
    """
    head = Pin(repo=repo, revision="main", folder=Path(folder), file=HubFile(path=path, size=1, sha256="0" * 64))
    if constants.HF_HUB_OFFLINE:
        raise MissingWeights(
            f"offline mode is on (HF_HUB_OFFLINE), and {repo} has to be asked for {path}; give the file itself as source="
        )
    try:
        answer = describe(repo, path, "main", endpoint)
    except HfHubHTTPError as error:
        raise MissingWeights(_refusal(head, error, endpoint)) from error
    except (HTTPError, OSError) as error:
        raise MissingWeights(
            f"cannot reach {_address(endpoint)} ({_reason(error)}); give the file itself as source="
        ) from error
    if answer.commit_hash is None or answer.size is None or not SHA256.fullmatch(answer.etag or ""):
        raise BadConfig(
            f"{_address(endpoint)} does not say the checksum of {repo}/{path}; download it yourself and give it as source="
        )
    file = HubFile(path=path, size=answer.size, sha256=str(answer.etag))
    return HubSource(repo=repo, revision=answer.commit_hash, folder=folder, files=[file])


def fetch(sources: Sequence[HubSource], *, endpoint: str | None = None) -> list[Path]:
    """Return the files that had to be downloaded; none, and no network touched, if all are there and right.

    A file appears under its final name only after its size and sha256 were found right; one that is there and differs is
    somebody's own and stays. `.verified.json` beside the files remembers which were checked, so that unchanged ones are not read again.
    A download that breaks off, by the connection or with the process, is taken up where it broke by the next call.

    Args: endpoint: the hub's address; None means $HF_ENDPOINT, or huggingface.co.
    Raises: MissingWeights, if something cannot be had, naming all that is missing; WrongWeights, if the hub has something else;
        BadConfig, if two sources want the same file to be different; WouldOverwrite, if other content is under one of the names.
    """
    missing = _not_in_place(_pins(sources))
    if not missing:
        return []
    _refuse_to_overwrite(missing)
    if constants.HF_HUB_OFFLINE:
        raise MissingWeights(
            f"offline mode is on (HF_HUB_OFFLINE); {_not_there(missing)}; switch it off, {_by_hand(missing)}"
        )
    try:
        with ExitStack() as locks:
            for folder in sorted({pin.folder for pin in missing}):
                folder.mkdir(parents=True, exist_ok=True)
                locks.enter_context(WeakFileLock(folder / f"{STAGING}.lock"))
            return _fetch_alone(missing, endpoint)
    except (MissingWeights, WrongWeights):
        for folder in {pin.folder for pin in missing}:
            _remove_if_unused(folder)
        raise
    except OSError as error:
        raise MissingWeights(
            f"cannot write weights: {error}; {_not_there(missing)}; set LIPSYNC_WEIGHTS to a folder you may write"
        ) from error


def _refuse_to_overwrite(pins: list[Pin]) -> None:
    others = [str(pin.target) for pin in pins if pin.target.exists()]  # what broke off never gets that name
    if others:
        raise WouldOverwrite(
            f"{', '.join(others)}: there already, and not what the pin says by size or sha256; "
            "move it away, or set LIPSYNC_WEIGHTS to another folder, and call again"
        )


def _remove_if_unused(folder: Path) -> None:
    """Remove a folder in which nothing but the lock was made."""
    if [path.name for path in folder.iterdir()] == [f"{STAGING}.lock"]:
        shutil.rmtree(folder, ignore_errors=True)


def _fetch_alone(pins: list[Pin], endpoint: str | None) -> list[Path]:
    missing = _not_in_place(pins)  # anew: another process may have been at it until now
    _check_space(missing)
    _check_hub(missing, endpoint)
    for pin in missing:
        _fetch_one(pin, endpoint)
    for folder in {pin.folder for pin in missing}:
        shutil.rmtree(folder / STAGING, ignore_errors=True)
    return [pin.target for pin in missing]


def _pins(sources: Iterable[HubSource]) -> list[Pin]:
    pins: dict[Path, Pin] = {}
    for source in sources:
        for file in source.files:
            pin = Pin(repo=source.repo, revision=source.revision, folder=Path(source.folder), file=file)
            first = pins.setdefault(pin.target, pin)
            if first.file != file:
                raise BadConfig(f"{pin.target} is pinned twice and differently: as {first.name} and as {pin.name}")
    return list(pins.values())


def _not_in_place(pins: Iterable[Pin]) -> list[Pin]:
    return [pin for pin in pins if not _in_place(pin)]


def _in_place(pin: Pin) -> bool:
    if not pin.target.is_file():
        return False
    fingerprint = _fingerprint(pin)
    if fingerprint["size"] != pin.file.size:
        return False
    if _remembered(pin.folder).get(pin.file.path) == fingerprint:
        return True
    if _sha256(pin.target) != pin.file.sha256:
        return False
    _remember(pin, fingerprint)
    return True


def _fingerprint(pin: Pin) -> dict[str, int | str]:
    """Return what the sidecar remembers of a file whose checksum was found right."""
    stat = pin.target.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": pin.file.sha256}


def _remembered(folder: Path) -> dict[str, dict[str, int | str]]:
    try:
        content = json.loads((folder / SIDECAR).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _remember(pin: Pin, fingerprint: dict[str, int | str]) -> None:
    verified = _remembered(pin.folder) | {pin.file.path: fingerprint}
    with suppress(OSError):  # a folder that may only be read is hashed at every call
        write_atomically(pin.folder / SIDECAR, json.dumps(verified, indent=1).encode())


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    total = path.stat().st_size
    with (
        path.open("rb") as file,
        tqdm(total=total, unit="B", unit_scale=True, desc=f"checking {path.name}", delay=1, leave=False) as bar,
    ):
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def _check_space(pins: Iterable[Pin]) -> None:
    by_disk: dict[int, list[Pin]] = defaultdict(list)
    for pin in pins:
        by_disk[pin.folder.stat().st_dev].append(pin)
    for together in by_disk.values():
        folder, needed = together[0].folder, sum(pin.file.size - _num_bytes_there(pin) for pin in together)
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise MissingWeights(
                f"not enough space: {_not_there(together)}, {_readable(needed)} in all, and {folder} has {_readable(free)} free; "
                f"make room or set LIPSYNC_WEIGHTS to a folder on a larger disk"
            )


def _staged(pin: Pin) -> Path:
    """Where a file grows until it is whole and checked."""
    return pin.folder / STAGING / pin.file.sha256


def _num_bytes_there(pin: Pin) -> int:
    return _staged(pin).stat().st_size if _staged(pin).is_file() else 0


def _check_hub(pins: list[Pin], endpoint: str | None) -> None:
    """Ask for every file's size and checksum, so that what cannot succeed fails before the first large download."""
    refusals: dict[str, None] = {}
    for pin in pins:
        try:
            answer = describe(pin.repo, pin.file.path, pin.revision, endpoint)
        except HfHubHTTPError as error:
            refusals[_refusal(pin, error, endpoint)] = None
        except (HTTPError, OSError) as error:
            raise MissingWeights(
                f"cannot reach {_address(endpoint)} ({_reason(error)}); {_not_there(pins)}; behind a proxy set HTTPS_PROXY, "
                f"for a mirror set HF_ENDPOINT, then call again: what has come stays; {_by_hand(pins)}"
            ) from error
        else:
            if answer.commit_hash != pin.revision:
                refusals[f"{_address(endpoint)} does not answer as a hub does; check HF_ENDPOINT and proxies"] = None
            elif differs := _difference(pin, answer.size, answer.etag):
                raise WrongWeights(
                    f"{pin.name}: {differs}; nothing was downloaded; check the pin, and HF_ENDPOINT if it is set"
                )
    if refusals:
        raise MissingWeights(f"{'; '.join(refusals)} ({_not_there(pins)})")


def _refusal(pin: Pin, error: HfHubHTTPError, endpoint: str | None) -> str:
    hub, status = _address(endpoint), error.response.status_code
    if isinstance(error, GatedRepoError):
        return f"{pin.repo} is gated ({status}): accept its terms at {hub}/{pin.repo} and set HF_TOKEN to a token of that account"
    if isinstance(error, RevisionNotFoundError):
        return f"{pin.repo} has no commit {pin.revision} ({status}): check the pin, and HF_ENDPOINT if it is set"
    if isinstance(error, EntryNotFoundError):
        return f"{pin.repo} has no file {pin.file.path} at commit {pin.revision} ({status}): check the pin"
    if isinstance(error, RepositoryNotFoundError):
        return f"{pin.repo} does not exist or is private ({status}): check its name, or set HF_TOKEN to a token that may read it"
    if status == 401:
        return f"{hub} refused the token (401): renew HF_TOKEN, or unset it for public files"
    if status == 403:
        return f"{hub} forbids reading {pin.repo} (403): check HF_TOKEN's permissions, and any proxy in between"
    return f"{hub} answered {status} for {pin.name}: try again later"


def _fetch_one(pin: Pin, endpoint: str | None) -> None:
    staged = _staged(pin)
    try:
        transfer(pin.repo, pin.file.path, pin.revision, staged, endpoint)
    except HfHubHTTPError as error:
        raise MissingWeights(_refusal(pin, error, endpoint)) from error
    except (HTTPError, OSError) as error:
        if _num_bytes_there(pin) >= pin.file.size:
            staged.unlink()  # whole, and not what was announced
        raise MissingWeights(
            f"the download of {pin.name} broke off ({_reason(error)}); call again: it goes on from there"
        ) from error
    differs = _difference(pin, staged.stat().st_size, None) or _difference(pin, None, _sha256(staged))
    if differs:
        staged.unlink()
        raise WrongWeights(
            f"{pin.name}: {differs}; the download was removed and {pin.target} was not touched; call again, "
            f"and if that repeats check HF_ENDPOINT ({_address(endpoint)}) and any proxy in between"
        )
    pin.target.parent.mkdir(parents=True, exist_ok=True)
    staged.replace(pin.target)
    _remember(pin, _fingerprint(pin))


def _difference(pin: Pin, size: int | None, sha256: str | None) -> str | None:
    """Say how a file differs from its pin, or None. What is unknown is not compared: a small file's etag is no sha256."""
    if size is not None and size != pin.file.size:
        return f"expected {pin.file.size} bytes, got {size}"
    if sha256 is not None and SHA256.fullmatch(sha256) and sha256 != pin.file.sha256:
        return f"expected sha256 {pin.file.sha256}, got {sha256}"
    return None


def _address(endpoint: str | None) -> str:
    return endpoint or constants.ENDPOINT


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0]


def _readable(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def _not_there(pins: Iterable[Pin]) -> str:
    names = [
        f"{pin.target} ({_readable(pin.file.size)}{', there but not as pinned' if pin.target.exists() else ''})"
        for pin in pins
    ]
    return f"missing: {', '.join(names)}"


def _by_hand(pins: Iterable[Pin]) -> str:
    wanted: dict[tuple[str, str, Path], list[str]] = defaultdict(list)
    for pin in pins:
        wanted[pin.repo, pin.revision, pin.folder].append(pin.file.path)
    commands = [
        f"hf download {repo} {' '.join(files)} --revision {rev} --local-dir {into}"
        for (repo, rev, into), files in wanted.items()
    ]
    return f"or run this where there is a network and copy the files to the paths above: {' && '.join(commands)}"
