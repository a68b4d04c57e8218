"""Pinned files of the Hugging Face hub, downloaded by its own library and checked before they get their names."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]  # of the HTTP library it uses

from lipsync_lightning.errors import MissingWeights, WrongWeights
from lipsync_lightning.files import sha256_of


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """A file of one commit of a hub repository, and what it must be."""

    repo: str  # owner/name
    revision: str  # all 40 digits of a commit: a branch moves
    path: str  # in the repository, and below `folder`
    sha256: str
    folder: Path


def fetch(files: Iterable[HubFile]) -> list[Path]:
    """Return the files that had to be downloaded: none, and without a network, if all are there and right.

    A file gets its final name only once its sha256 is right. One that is there and differs is the user's own and stays.
    The hub's library reads $HF_ENDPOINT, $HF_TOKEN, $HF_HUB_OFFLINE and $HTTPS_PROXY.
    Raises: MissingWeights, with the command that gets the file elsewhere; WrongWeights, if another file is there.
    """
    downloaded = []
    for file in files:
        target, staging = file.folder / file.path, file.folder / ".download"
        if target.is_file():
            _require_pinned(file, target, "move it away, or set LIPSYNC_WEIGHTS to another folder")
            continue
        try:
            arrived = Path(hf_hub_download(file.repo, file.path, revision=file.revision, local_dir=staging))
        except (OSError, HTTPError) as error:
            reason = " ".join(str(error.__cause__ or error).split())
            raise MissingWeights(
                f"cannot download {target} ({reason}); call again, or run this where there is a network: "
                f"hf download {file.repo} {file.path} --revision {file.revision} --local-dir {file.folder}"
            ) from error
        try:
            _require_pinned(file, arrived, "call again, and check HF_ENDPOINT and proxies")
            target.parent.mkdir(parents=True, exist_ok=True)
            arrived.replace(target)
        finally:
            shutil.rmtree(staging)  # a wrong file goes with it
        downloaded.append(target)
    return downloaded


def _require_pinned(file: HubFile, path: Path, way_out: str) -> None:
    found = sha256_of(path)
    if found != file.sha256:
        pinned = f"{file.path} of {file.repo} at {file.revision[:8]}"
        raise WrongWeights(f"{path} is not {pinned}: expected sha256 {file.sha256}, found {found}; {way_out}")
