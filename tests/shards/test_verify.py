import io
import json
import tarfile
from pathlib import Path

import pytest

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BrokenShard
from lipsync_lightning.shards.format import FinishedClip, read_sidecar, sidecar_path, write_shard
from lipsync_lightning.shards.verify import verify_shard


@pytest.fixture
def shard(tmp_path: Path, tiny_clip: ClipSpec) -> Path:
    members = {"mp4": b"mp4" * 1000, "flac": b"flac" * 9}
    write_shard(tmp_path / "0.tar", [FinishedClip(f"d/{n}", 9, members) for n in range(3)], clip=tiny_clip)
    return tmp_path / "0.tar"


def reason_of(shard: Path) -> str:
    with pytest.raises(BrokenShard) as caught:
        verify_shard(shard)
    return caught.value.reason


def restate_size(shard: Path) -> None:
    stored = json.loads(sidecar_path(shard).read_text())
    sidecar_path(shard).write_text(json.dumps(stored | {"num_bytes": shard.stat().st_size}))


@pytest.mark.parametrize("where", ["a member", "a header", "the padding"])
def test_a_whole_shard_passes_and_one_changed_byte_anywhere_does_not(shard: Path, where: str):
    assert verify_shard(shard).num_samples == 3
    content = bytearray(shard.read_bytes())
    first, size, _ = read_sidecar(shard).place(1, "mp4")
    content[{"a member": first + 2, "a header": first - 512, "the padding": first + size}[where]] ^= 1
    shard.write_bytes(content)
    assert reason_of(shard) == "corrupt"


def test_a_sidecar_of_other_clips_is_noticed(shard: Path):
    text = sidecar_path(shard).read_text()
    sidecar_path(shard).write_text(text.replace('"d/', '"e/'))
    with pytest.raises(BrokenShard, match=r"differ in 12 members, the first is d/0\.flac"):
        verify_shard(shard)


@pytest.mark.parametrize("name", ["../evil.mp4", "/etc/evil.mp4", "d/../evil.mp4", "d\\evil.mp4", "link", "d/0.mp4"])
def test_a_tar_with_unsafe_names_or_links_is_refused_whatever_its_sidecar_says(shard: Path, name: str):
    with tarfile.open(shard, "a") as archive:
        member = tarfile.TarInfo(name)
        if name == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member, io.BytesIO())
    restate_size(shard)
    assert reason_of(shard) == "unsafe name"
