import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants
from omegaconf import OmegaConf

from fake_hub import FakeHub
from lipsync_lightning.errors import MissingWeights, WrongWeights
from lipsync_lightning.files import CONF_DIR
from lipsync_lightning.models.hub import HubFile, fetch

REPO, REVISION = "owner/name", "0123456789abcdef0123456789abcdef01234567"
FILES = {"unet.pt": b"unet" * 1000, "whisper/tiny.pt": b"whisper" * 1000}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home"))
    hub = FakeHub(REPO, REVISION, FILES)
    with hub.serving(monkeypatch):
        yield hub


def pinned(folder: Path, path: str, content: bytes | None = None) -> HubFile:
    sha256 = hashlib.sha256(FILES[path] if content is None else content).hexdigest()
    return HubFile(repo=REPO, revision=REVISION, path=path, sha256=sha256, folder=folder)


def found(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_lie_in_the_folder_under_their_paths_and_are_fetched_once(hub, tmp_path):
    pins = [pinned(tmp_path / "weights", path) for path in FILES]
    assert fetch(pins) == [tmp_path / "weights" / path for path in FILES]
    assert found(tmp_path / "weights") == FILES
    hub.requests.clear()
    assert fetch(pins) == []
    assert hub.requests == []


def test_another_file_than_the_pinned_one_is_refused_with_both_checksums_and_not_kept(hub, tmp_path):
    wrong = replace(pinned(tmp_path / "weights", "whisper/tiny.pt"), sha256="0" * 64)
    with pytest.raises(WrongWeights) as caught:
        fetch([pinned(tmp_path / "weights", "unet.pt"), wrong])
    expected, came = "0" * 64, hashlib.sha256(FILES["whisper/tiny.pt"]).hexdigest()
    assert f"expected sha256 {expected}, found {came}" in str(caught.value)
    assert {name for name in found(tmp_path / "weights") if ".cache" not in name} == {"unet.pt"}


def test_a_file_of_the_same_name_is_the_users_own_and_stays(hub, tmp_path):
    own = tmp_path / "weights" / "unet.pt"
    own.parent.mkdir()
    own.write_bytes(b"fine-tuned")
    with pytest.raises(WrongWeights, match=r"unet\.pt is not unet\.pt of owner/name at 01234567: .*move it away"):
        fetch([pinned(tmp_path / "weights", "unet.pt")])
    assert own.read_bytes() == b"fine-tuned"
    assert hub.requests == []


def test_what_cannot_be_downloaded_is_told_in_one_sentence_with_the_command_for_another_machine(
    hub, tmp_path, monkeypatch
):
    command = f"hf download owner/name {{}} --revision {REVISION} --local-dir {tmp_path}"
    with pytest.raises(MissingWeights) as caught:
        fetch([pinned(tmp_path, "judge.pt", b"")])
    assert command.format("judge.pt") in str(caught.value)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingWeights, match="offline mode is enabled") as caught:
        fetch([pinned(tmp_path, "unet.pt")])
    assert command.format("unet.pt") in str(caught.value)


def test_every_released_file_is_pinned_and_lies_where_the_networks_of_the_configuration_read_it():
    releases = OmegaConf.load(CONF_DIR / "releases.yaml").releases
    for name, release in releases.items():
        pins = [*release.inference, *release.training]
        assert all(len(pin.revision) == 40 and len(pin.sha256) == 64 for pin in pins)
        assert release.inference[0].folder == name
        assert (release.inference[0].path, release.training[0].path) == ("latentsync_unet.pt", "stable_syncnet.pt")
        there = {f"{pin.folder}/{pin.path}" for pin in pins}
        read = set()
        for path in (CONF_DIR / "models").rglob("*.yaml"):
            read |= {line.split("${weights:")[1].rstrip("}\n") for line in path.open() if "${weights:" in line}
        assert len(read) >= 5
        assert read - there - {pin.folder for pin in pins} <= {"latentsync-1.6/stable_syncnet.pt"}
