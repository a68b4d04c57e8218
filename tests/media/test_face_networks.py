import hashlib
import zipfile
from pathlib import Path

import pytest

from lipsync_lightning.errors import MissingWeights, WrongWeights
from lipsync_lightning.media.face_networks import FACE_NETWORKS, face_network_path, fetch_face_networks

CONTENT = {name: f"network {name}".encode() for name in FACE_NETWORKS}


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIPSYNC_WEIGHTS", str(tmp_path / "weights"))
    for name, content in CONTENT.items():
        monkeypatch.setitem(FACE_NETWORKS, name, hashlib.sha256(content).hexdigest())
    return tmp_path / "weights" / "face_mesh"


def wheel_of(content: dict[str, bytes], folder: Path) -> Path:
    with zipfile.ZipFile(folder / "mediapipe.whl", "w") as wheel:
        wheel.writestr("mediapipe/other.tflite", b"other")
        for name, data in content.items():
            wheel.writestr(f"mediapipe/modules/any/{name}.tflite", data)
    return folder / "mediapipe.whl"


def no_download(folder: Path) -> Path:
    raise AssertionError("the network was touched")


def test_the_three_networks_are_fetched_once_and_a_damaged_one_again(weights: Path) -> None:
    fetched = fetch_face_networks(lambda folder: wheel_of(CONTENT, folder))
    assert set(weights.iterdir()) == set(fetched)
    assert all(face_network_path(name).read_bytes() == data for name, data in CONTENT.items())
    assert fetch_face_networks(no_download) == []
    damaged = face_network_path("face_landmark")
    damaged.write_bytes(b"half")
    assert fetch_face_networks(lambda folder: wheel_of(CONTENT, folder)) == [damaged]
    assert damaged.read_bytes() == CONTENT["face_landmark"]


def test_a_network_with_another_hash_is_refused_and_not_written(weights: Path) -> None:
    with pytest.raises(WrongWeights, match="sha256"):
        fetch_face_networks(lambda folder: wheel_of({**CONTENT, "face_landmark": b"forged"}, folder))
    assert not (weights / "face_landmark.tflite").exists()


def test_a_missing_network_names_the_command_that_gets_it(weights: Path) -> None:
    with pytest.raises(MissingWeights, match=r"python -m lipsync_lightning\.media\.face_networks"):
        face_network_path("face_landmark")
