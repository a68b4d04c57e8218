import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from fake_hub import FakeHub
from lipsync_lightning.cli import build, one_sentence
from lipsync_lightning.errors import BadConfig, MissingWeights, WouldOverwrite, WrongWeights
from lipsync_lightning.files import CONF_DIR
from lipsync_lightning.models import hub as hub_module
from lipsync_lightning.models.hub import fetch, pinned_now
from lipsync_lightning.models.hub_pins import HubFile, HubSource

REPO, REVISION = "owner/name", "0123456789abcdef0123456789abcdef01234567"
FILES = {"unet.pt": b"unet" * 1000, "whisper/tiny.pt": b"whisper" * 1000}
CLOSED = "http://127.0.0.1:9"  # nobody listens on the port named discard
FETCH = """
import json, sys
from lipsync_lightning.models.hub import fetch
from lipsync_lightning.models.hub_pins import HubFile, HubSource
source = json.loads(sys.argv[1])
fetch([HubSource(**{**source, "files": [HubFile(**file) for file in source["files"]]})])
"""


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a user without token or cache; huggingface_hub read this process's own when it was imported."""
    home = tmp_path / "home"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    without = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HF_") and name != "TRANSFORMERS_OFFLINE"
    }
    return {**without, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub(repo=REPO, revision=REVISION, files=dict(FILES)).serving() as serving:
        yield serving


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "weights" / "release"


def pinned(path: str, content: bytes) -> HubFile:
    return HubFile(path=path, size=len(content), sha256=hashlib.sha256(content).hexdigest())


def source(folder: Path, files: dict[str, bytes] = FILES, revision: str = REVISION) -> HubSource:
    return HubSource(repo=REPO, revision=revision, folder=str(folder), files=[pinned(*file) for file in files.items()])


def started(
    folder: Path, environment: dict[str, str], endpoint: str, files: dict[str, bytes] = FILES, **more: str
) -> subprocess.Popen[str]:
    """A process of its own that fetches, told of the hub as users tell theirs."""
    asked = {
        "repo": REPO,
        "revision": REVISION,
        "folder": str(folder),
        "files": [vars(pinned(*file)) for file in files.items()],
    }
    command = [sys.executable, "-c", FETCH, json.dumps(asked)]
    return subprocess.Popen(
        command, env={**environment, "HF_ENDPOINT": endpoint, **more}, stderr=subprocess.PIPE, text=True
    )


def found(folder: Path) -> dict[str, bytes]:
    """The files in place, without what the fetching keeps for itself."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {name: path.read_bytes() for path in paths if not (name := str(path.relative_to(folder))).startswith(".")}


def test_files_lie_in_the_folder_under_their_paths_in_the_repository(hub, folder):
    assert fetch([source(folder)], endpoint=hub.endpoint) == [folder / path for path in FILES]
    assert found(folder) == FILES
    assert not (folder / hub_module.STAGING).exists()


def test_fetching_again_needs_neither_a_network_nor_the_files_content(hub, folder, monkeypatch):
    fetch([source(folder)], endpoint=hub.endpoint)
    monkeypatch.setattr(hub_module, "_sha256", lambda path: pytest.fail(f"{path} was read again"))
    assert fetch([source(folder)], endpoint=CLOSED) == []


@pytest.mark.parametrize("broken", [None, b"", b"{", b"[]", b'{"unet.pt": 1}'])
def test_files_put_there_by_hand_are_taken_without_a_network(broken, folder):
    for path, content in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    if broken is not None:
        (folder / hub_module.SIDECAR).write_bytes(broken)
    assert fetch([source(folder)], endpoint=CLOSED) == []
    assert set(json.loads((folder / hub_module.SIDECAR).read_text())) >= set(FILES)


def test_a_folder_that_may_only_be_read_is_enough(hub, folder, monkeypatch):
    fetch([source(folder)], endpoint=hub.endpoint)
    (folder / hub_module.SIDECAR).unlink()

    def refuse(path: Path, data: bytes) -> Path:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(hub_module, "write_atomically", refuse)
    assert fetch([source(folder)], endpoint=CLOSED) == []


def test_a_file_that_changed_since_it_was_checked_is_noticed_and_left_to_its_owner(hub, folder):
    fetch([source(folder)], endpoint=hub.endpoint)
    fine_tuned = FILES["unet.pt"][::-1]  # as long as before
    (folder / "unet.pt").write_bytes(fine_tuned)
    with pytest.raises(WouldOverwrite, match=r"unet\.pt: there already.*move it away"):
        fetch([source(folder)], endpoint=hub.endpoint)
    assert found(folder) == FILES | {"unet.pt": fine_tuned}
    (folder / "unet.pt").unlink()
    assert fetch([source(folder)], endpoint=hub.endpoint) == [folder / "unet.pt"]
    assert len(hub.asked("GET", "whisper/tiny.pt")) == 1


def test_a_file_that_was_only_touched_is_not_fetched_again(hub, folder):
    fetch([source(folder)], endpoint=hub.endpoint)
    os.utime(folder / "unet.pt", (1, 1))
    assert fetch([source(folder)], endpoint=CLOSED) == []


def test_a_broken_connection_is_taken_up_where_it_broke(hub, folder):
    read_at_once = constants.DOWNLOAD_CHUNK_SIZE
    large = os.urandom(read_at_once + 3000)
    hub.files["large.pt"], hub.cut_at["large.pt"] = large, read_at_once + 1000
    fetch([source(folder, {"large.pt": large})], endpoint=hub.endpoint)
    assert found(folder) == {"large.pt": large}
    assert [request.range for request in hub.asked("GET", "large.pt")] == [None, f"bytes={read_at_once}-"]


def test_a_killed_download_goes_on_where_it_was_at_the_next_call(hub, folder, own_home):
    read_at_once = constants.DOWNLOAD_CHUNK_SIZE
    files = {"unet.pt": FILES["unet.pt"], "large.pt": os.urandom(read_at_once + 3000)}
    hub.files.update(files)
    hub.stall_at["large.pt"] = read_at_once + 1000
    process = started(folder, own_home, hub.endpoint, files)
    assert hub.stalled.wait(20)
    part = folder / hub_module.STAGING / hashlib.sha256(files["large.pt"]).hexdigest()
    while not part.is_file() or part.stat().st_size < read_at_once:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert found(folder) == {"unet.pt": FILES["unet.pt"]}
    assert fetch([source(folder, files)], endpoint=hub.endpoint) == [folder / "large.pt"]
    assert found(folder) == files
    assert len(hub.asked("GET", "unet.pt")) == 1
    assert [request.range for request in hub.asked("GET", "large.pt")] == [None, f"bytes={read_at_once}-"]
    assert not (folder / hub_module.STAGING).exists()


def test_a_part_that_is_longer_than_the_file_is_thrown_away(hub, folder):
    part = folder / hub_module.STAGING / hashlib.sha256(FILES["unet.pt"]).hexdigest()
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 5000)
    fetch([source(folder)], endpoint=hub.endpoint)
    assert found(folder) == FILES


def test_a_part_with_wrong_content_is_found_out_and_thrown_away(hub, folder):
    part = folder / hub_module.STAGING / hashlib.sha256(FILES["unet.pt"]).hexdigest()
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 100)
    with pytest.raises(WrongWeights, match="expected sha256"):
        fetch([source(folder)], endpoint=hub.endpoint)
    fetch([source(folder)], endpoint=hub.endpoint)
    assert found(folder) == FILES


def test_a_token_goes_to_the_hub_and_not_to_the_storage_it_points_to(hub, folder, monkeypatch):
    storage = FakeHub(repo=REPO, revision=REVISION, files=dict(FILES))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with storage.serving():
        hub.redirected_to = storage.endpoint
        fetch([source(folder)], endpoint=hub.endpoint)
    assert found(folder) == FILES
    assert {request.authorization for request in hub.requests} == {"Bearer hf_secret"}
    assert {request.authorization for request in storage.asked("GET", "unet.pt")} == {None}


def test_a_file_is_pinned_to_the_commit_the_hub_has_now(hub, folder):
    hub.branches["main"] = REVISION
    pin = pinned_now(REPO, "unet.pt", str(folder), endpoint=hub.endpoint)
    assert pin == HubSource(
        repo=REPO, revision=REVISION, folder=str(folder), files=[pinned("unet.pt", FILES["unet.pt"])]
    )


@pytest.mark.parametrize(
    ("repo", "path", "message"), [(REPO, "other.pt", "no file other.pt"), ("no/one", "unet.pt", "does not exist")]
)
def test_what_the_hub_has_not_cannot_be_pinned(hub, folder, repo, path, message):
    hub.branches["main"] = REVISION
    with pytest.raises(MissingWeights, match=message):
        pinned_now(repo, path, str(folder), endpoint=hub.endpoint)


def test_without_a_network_the_hub_cannot_be_asked_for_a_pin(folder):
    with pytest.raises(MissingWeights, match=r"cannot reach .*; give the file itself"):
        pinned_now(REPO, "unet.pt", str(folder), endpoint=CLOSED)


def test_two_processes_at_once_fetch_every_file_once(hub, folder, own_home):
    hub.stall_at["unet.pt"] = 100
    first = started(folder, own_home, hub.endpoint)
    assert hub.stalled.wait(20)
    with ThreadPoolExecutor() as pool:
        second = pool.submit(fetch, [source(folder)], endpoint=hub.endpoint)
        time.sleep(0.5)
        assert not second.done()
        hub.resume.set()
        assert second.result(20) == []
    _, complaint = first.communicate(timeout=20)
    assert first.returncode == 0, complaint
    assert found(folder) == FILES
    assert [len(hub.asked("GET", path)) for path in FILES] == [1, 1]


def test_what_hashes_to_something_else_is_refused_and_not_kept(hub, folder):
    forged = hub.forged["unet.pt"] = FILES["unet.pt"][::-1]
    with pytest.raises(WrongWeights) as caught:
        fetch([source(folder)], endpoint=hub.endpoint)
    expected, got = (hashlib.sha256(content).hexdigest() for content in (FILES["unet.pt"], forged))
    assert f"owner/name/unet.pt at 01234567: expected sha256 {expected}, got {got}" in str(caught.value)
    assert f"{folder / 'unet.pt'} was not touched" in str(caught.value)
    assert found(folder) == {}
    assert forged not in [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


def test_a_file_of_the_same_name_is_not_lost_to_a_download(hub, folder):
    folder.mkdir(parents=True)
    (folder / "unet.pt").write_bytes(b"my own")
    with pytest.raises(WouldOverwrite, match=r"unet\.pt"):
        fetch([source(folder)], endpoint=hub.endpoint)
    assert found(folder) == {"unet.pt": b"my own"}
    assert not hub.asked("GET", "unet.pt")


@pytest.mark.parametrize("length", [10, 5000])
def test_a_download_of_another_length_than_announced_is_not_kept(length, hub, folder):
    hub.forged["unet.pt"] = b"x" * length
    with pytest.raises(MissingWeights, match=r"unet\.pt at 01234567 broke off .*; call again"):
        fetch([source(folder)], endpoint=hub.endpoint)
    assert found(folder) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 17}, "expected 17 bytes, got 4000"),
        ({"sha256": "0" * 64}, f"expected sha256 {'0' * 64}, got {hashlib.sha256(FILES['unet.pt']).hexdigest()}"),
    ],
)
def test_a_pin_that_the_hub_contradicts_is_refused_before_anything_is_downloaded(change, message, hub, folder):
    right, wrong = (
        pinned("whisper/tiny.pt", FILES["whisper/tiny.pt"]),
        replace(pinned("unet.pt", FILES["unet.pt"]), **change),
    )
    with pytest.raises(WrongWeights, match=message):
        fetch([replace(source(folder), files=[right, wrong])], endpoint=hub.endpoint)
    assert {request.method for request in hub.requests} == {"HEAD"}


def test_offline_mode_names_all_that_is_missing_and_how_to_get_it(hub, folder, monkeypatch):
    fetch([source(folder, {"unet.pt": FILES["unet.pt"]})], endpoint=hub.endpoint)
    hub.requests.clear()
    more = {**FILES, "judge.pt": b"judge"}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingWeights, match=r"offline mode is on \(HF_HUB_OFFLINE\)") as caught:
        fetch([source(folder, more)], endpoint=hub.endpoint)
    message = str(caught.value)
    assert f"missing: {folder}/whisper/tiny.pt (0.0 MB), {folder}/judge.pt" in message
    assert f"hf download {REPO} whisper/tiny.pt judge.pt --revision {REVISION} --local-dir {folder}" in message
    assert "unet.pt" not in message
    assert hub.requests == []


def test_offline_mode_is_content_with_files_that_are_there(hub, folder, monkeypatch):
    fetch([source(folder)], endpoint=hub.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch([source(folder)]) == []


def test_without_a_network_one_sentence_names_all_that_is_missing(folder):
    began = time.monotonic()
    with pytest.raises(MissingWeights, match=f"cannot reach {CLOSED}") as caught:
        fetch([source(folder)], endpoint=CLOSED)
    assert time.monotonic() - began < 5
    for expected in ["unet.pt", "whisper/tiny.pt", "HTTPS_PROXY", "HF_ENDPOINT", "call again"]:
        assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (401, {"X-Error-Code": "RepoNotFound"}, r"owner/name does not exist or is private \(401\): .* HF_TOKEN"),
        (
            401,
            {"X-Error-Message": "Invalid credentials in Authorization header"},
            r"refused the token \(401\): renew HF_TOKEN",
        ),
        (
            403,
            {"X-Error-Code": "GatedRepo"},
            r"owner/name is gated \(403\): accept its terms at http\S+/owner/name and set HF_TOKEN",
        ),
        (403, {}, r"forbids reading owner/name \(403\): check HF_TOKEN's permissions"),
        (404, {"X-Error-Code": "RevisionNotFound"}, rf"owner/name has no commit {REVISION} \(404\): check the pin"),
        (
            404,
            {"X-Error-Code": "EntryNotFound"},
            rf"owner/name has no file whisper/tiny\.pt at commit {REVISION} \(404\)",
        ),
        (503, {}, r"answered 503 for owner/name/whisper/tiny\.pt at 01234567: try again later"),
    ],
)
def test_a_refusal_is_told_in_a_sentence_before_anything_is_downloaded(status, headers, message, hub, folder):
    hub.refused["whisper/tiny.pt"] = (status, headers)
    with pytest.raises(MissingWeights, match=message) as caught:
        fetch([source(folder)], endpoint=hub.endpoint)
    assert "\n" not in str(caught.value)
    assert hub.asked("GET", "unet.pt") == []


def test_all_files_that_the_hub_lacks_are_named_at_once_and_a_missing_commit_once(hub, folder):
    with pytest.raises(MissingWeights, match=r"no file a\.pt .* no file b\.pt"):
        fetch([source(folder, {"a.pt": b"a", "unet.pt": FILES["unet.pt"], "b.pt": b"b"})], endpoint=hub.endpoint)
    with pytest.raises(MissingWeights) as caught:
        fetch([source(folder, revision="f" * 40)], endpoint=hub.endpoint)
    assert str(caught.value).count("has no commit") == 1


def test_a_page_that_is_no_hub_is_not_taken_for_one(hub, folder):
    hub.refused["unet.pt"] = (200, {})  # as a network that wants a log-in answers
    with pytest.raises(MissingWeights, match="does not answer as a hub does; check HF_ENDPOINT and proxies"):
        fetch([source(folder)], endpoint=hub.endpoint)


def test_too_little_space_is_told_before_the_hub_is_asked(hub, folder, monkeypatch):
    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=10_999))
    with pytest.raises(
        MissingWeights,
        match=r"not enough space: missing: .*unet\.pt.*tiny\.pt.*, 0\.0 MB in all, and .* free; make room",
    ):
        fetch([source(folder)], endpoint=hub.endpoint)
    assert hub.requests == []
    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=11_000))
    fetch([source(folder)], endpoint=hub.endpoint)


def test_a_folder_that_cannot_be_made_is_told_in_a_sentence(hub, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MissingWeights, match=r"cannot write weights: .*file.*; missing: .*; set LIPSYNC_WEIGHTS"):
        fetch([source(tmp_path / "file" / "folder")], endpoint=hub.endpoint)


@pytest.mark.parametrize("revision", ["main", "v1.0", "0123456", REVISION.upper(), ""])
def test_a_revision_that_can_move_is_refused(revision, folder):
    with pytest.raises(BadConfig, match=rf"owner/name: revision '{revision}' can move; give the 40 hex digits"):
        source(folder, revision=revision)


@pytest.mark.parametrize(
    "change", [{"path": "../unet.pt"}, {"path": "/unet.pt"}, {"path": ""}, {"size": 0}, {"sha256": "abc"}]
)
def test_a_pin_that_cannot_be_checked_or_leaves_the_folder_is_refused(change):
    with pytest.raises(BadConfig):
        HubFile(**{"path": "unet.pt", "size": 1, "sha256": "0" * 64, **change})


def test_one_file_cannot_be_pinned_as_two(folder):
    with pytest.raises(BadConfig, match=r"unet\.pt is pinned twice and differently"):
        fetch([source(folder), source(folder, {"unet.pt": b"another"})], endpoint=CLOSED)


def test_a_file_that_two_sources_name_alike_is_fetched_once(hub, folder):
    assert fetch([source(folder), source(folder)], endpoint=hub.endpoint) == [folder / path for path in FILES]
    assert len(hub.asked("GET", "unet.pt")) == 1


def test_address_and_token_are_taken_from_the_environment(hub, folder, own_home):
    process = started(folder, own_home, hub.endpoint, HF_TOKEN="hf_mine")
    _, complaint = process.communicate(timeout=20)
    assert process.returncode == 0, complaint
    assert found(folder) == FILES
    assert {request.authorization for request in hub.requests} == {"Bearer hf_mine"}


def test_offline_mode_is_taken_from_the_environment(hub, folder, own_home):
    process = started(folder, own_home, hub.endpoint, HF_HUB_OFFLINE="1")
    _, complaint = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "MissingWeights: offline mode is on (HF_HUB_OFFLINE)" in complaint
    assert hub.requests == []


RELEASES = {"latentsync-1.6": 512, "latentsync-1.5": 256}


@pytest.fixture
def converting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], DictConfig]:
    """A function of a release: the configuration of an entry that can fetch it."""
    monkeypatch.setenv("LIPSYNC_WEIGHTS", "weights")
    entry = {
        "defaults": [{"clip": "256px_25fps"}, {"fetch": None}, "_self_"],
        "hydra": {"searchpath": [f"file://{CONF_DIR}"]},
    }
    OmegaConf.save(entry, tmp_path / "entry.yaml")

    def composed(release: str) -> DictConfig:
        with initialize_config_dir(version_base="1.3", config_dir=str(tmp_path)):
            return compose("entry", overrides=[f"fetch={release}"])

    return composed


def destinations(sources: dict[str, HubSource]) -> set[str]:
    return {f"{source.folder}/{file.path}" for source in sources.values() for file in source.files}


@pytest.mark.parametrize("release", RELEASES)
def test_a_release_is_pinned_whole_and_says_where_it_lies(release, converting):
    config = converting(release)
    assert (config.source, config.kind) == (f"weights/{release}/latentsync_unet.pt", "latentsync")
    assert config.clip.resolution == RELEASES[release]
    inference, training = destinations(build(config.fetch.inference)), destinations(build(config.fetch.training))
    vae = {f"weights/sd-vae-ft-mse/{name}" for name in ("config.json", "diffusion_pytorch_model.safetensors")}
    assert inference == vae | {f"weights/{release}/latentsync_unet.pt", f"weights/{release}/whisper/tiny.pt"}
    auxiliary = ["vgg16-397923af.pth", "vit_g_hybrid_pt_1200e_ssv2_ft.pth", "koniq_pretrained.pkl", "syncnet_v2.model"]
    assert training == {
        f"weights/{release}/stable_syncnet.pt",
        *(f"weights/{release}/auxiliary/{name}" for name in auxiliary),
    }


def test_the_networks_of_the_configuration_find_what_was_fetched(converting):
    fetched = converting("latentsync-1.6").fetch
    there = destinations(build(fetched.inference)) | destinations(build(fetched.training))
    folders = {str(Path(path).parent) for path in there}
    networks: list[Any] = [OmegaConf.load(path) for path in sorted((CONF_DIR / "network").rglob("*.yaml"))]
    read = {network.path for network in networks if "${weights:" in str(OmegaConf.to_container(network))}
    assert len(read) >= 4
    assert {path for path in read if path not in there | folders} == set()


def test_a_branch_in_a_configuration_is_refused_in_one_sentence(converting):
    config = converting("latentsync-1.6").fetch.inference
    config.release.revision = "main"
    with pytest.raises(InstantiationException) as caught:
        build(config)
    assert one_sentence(caught.value).startswith("ByteDance/LatentSync-1.6: revision 'main' can move")
