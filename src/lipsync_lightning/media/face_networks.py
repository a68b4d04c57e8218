"""Fetch the three face networks that `face_mesh` runs: `python -m lipsync_lightning.media.face_networks`.

They are Apache-2.0 files inside the mediapipe 0.10.21 wheel; the package itself is not installed.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from lipsync_lightning.errors import LipSyncError, MissingWeights, WrongWeights
from lipsync_lightning.files import sha256_of, weights_dir, write_atomically

COMMAND = "python -m lipsync_lightning.media.face_networks"
_WHEEL = "mediapipe==0.10.21"
_PIP = ("--python-version", "3.11", "--platform", "manylinux_2_28_x86_64", "--only-binary=:all:", "--no-deps")

# Their sha256.
FACE_NETWORKS = {
    "face_landmark": "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
    "face_detection_short_range": "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
    "face_detection_full_range_sparse": "2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
}


def _folder() -> Path:
    return weights_dir() / "face_mesh"


def face_network_path(name: str) -> Path:
    """Return the file of a network, such as "face_landmark". Raises: MissingWeights, if it was not fetched yet."""
    path = _folder() / f"{name}.tflite"
    if not path.is_file():
        raise MissingWeights(f"{path}: the face network is not there; run `{COMMAND}`, or set LIPSYNC_WEIGHTS")
    return path


def download_wheel(folder: Path) -> Path:
    """Return the wheel that pip fetched into `folder`. Raises: MissingWeights, with pip's words, if it could not."""
    command = [sys.executable, "-m", "pip", "download", _WHEEL, *_PIP, "--dest", str(folder)]
    pip = subprocess.run(command, capture_output=True, text=True, check=False)
    if pip.returncode:
        raise MissingWeights(
            f"pip could not download {_WHEEL}: {pip.stderr.strip()[-500:]}; if pip is missing run "
            f"`{sys.executable} -m ensurepip`; offline copy the three .tflite files into {_folder()}"
        )
    return next(folder.glob("*.whl"))


def fetch_face_networks(download: Callable[[Path], Path] = download_wheel) -> list[Path]:
    """Return the files that had to be fetched; none, and no network touched, if all are there and right.

    Args:
        download: puts the wheel into the folder it is given and returns its path.
    Raises: MissingWeights, if the download fails. WrongWeights, if a file in the wheel is not the expected one.
    """
    paths = {name: _folder() / f"{name}.tflite" for name in FACE_NETWORKS}
    wanted = [path for name, path in paths.items() if not (path.is_file() and sha256_of(path) == FACE_NETWORKS[name])]
    if wanted:
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(download(Path(folder))) as wheel:
            members = {Path(member).name: member for member in wheel.namelist()}
            for path in wanted:
                content = wheel.read(members[path.name])
                if hashlib.sha256(content).hexdigest() != FACE_NETWORKS[path.stem]:
                    raise WrongWeights(f"{path.name} of {_WHEEL} has another sha256 than expected; do not trust it")
                write_atomically(path, content)
    return wanted


if __name__ == "__main__":
    try:
        for fetched in fetch_face_networks():
            print(f"fetched {fetched}")
    except LipSyncError as error:
        sys.exit(str(error))
    print(f"all {len(FACE_NETWORKS)} face networks are in {_folder()}")
