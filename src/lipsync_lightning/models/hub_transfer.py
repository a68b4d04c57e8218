"""One file of the Hugging Face hub, downloaded so that the next call goes on where this one broke off."""

from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import HfFileMetadata, get_hf_file_metadata, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers


def describe(repo: str, path: str, revision: str, endpoint: str | None) -> HfFileMetadata:
    """Return commit, size, etag (the sha256 of a large file) and location of a file.

    Raises: HfHubHTTPError, HTTPError or OSError of the hub's library.
    """
    return get_hf_file_metadata(hf_hub_url(repo, path, revision=revision, endpoint=endpoint))


def transfer(repo: str, path: str, revision: str, part: Path, endpoint: str | None) -> None:
    """Append to `part` what it lacks of a file. After an error, or the death of the process, what has come stays in it.

    hf_hub_download takes up a broken connection within one call, but a later call starts over: several GB, after a reboot.
    Raises: HfHubHTTPError, HTTPError or OSError of the hub's library.
    """
    wanted = describe(repo, path, revision, endpoint)
    headers = build_hf_headers()
    if urlsplit(wanted.location).netloc != urlsplit(hf_hub_url(repo, path, endpoint=endpoint)).netloc:
        headers.pop("authorization", None)  # a token is for the hub, not for the storage it points to
    part.parent.mkdir(parents=True, exist_ok=True)
    part.touch()
    if wanted.size is not None and part.stat().st_size > wanted.size:
        part.write_bytes(b"")
    with part.open("r+b") as file:
        resume_size = file.seek(0, 2)
        http_get(
            wanted.location,
            file,
            resume_size=resume_size,
            headers=headers,
            expected_size=wanted.size,
            displayed_filename=path,
        )
