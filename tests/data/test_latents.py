import json
import multiprocessing
import shutil
import tarfile
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data import encode
from lipsync_lightning.data.datamodule import ClipDataModule
from lipsync_lightning.data.encode import ClipEncoder, EncodedSoFar, encode_shards
from lipsync_lightning.data.frame_arrays import read_frames, stored_array
from lipsync_lightning.data.latent_samples import LatentSamples
from lipsync_lightning.data.samples import Samples, UNetSamples
from lipsync_lightning.errors import BadConfig, BrokenShard, ClipMismatch, WouldOverwrite
from lipsync_lightning.models.audio_encoder import LogMelAudioEncoder
from lipsync_lightning.models.autoencoder import LinearAutoencoder, PatchMoments
from lipsync_lightning.shards.faults import ClipFault
from lipsync_lightning.shards.format import FinishedClip, checked_shard, read_sidecar, write_shard
from lipsync_lightning.shards.reader import ClipIndex
from tiny_media import prepared, sound_of, write_video

AUDIO_ENCODER = LogMelAudioEncoder(num_tokens=3, columns_per_token=1, sample_rate_hz=16000, mel_hz=80, num_mels=80)
OTHER_AUDIO_ENCODER = LogMelAudioEncoder(
    num_tokens=3, columns_per_token=1, sample_rate_hz=16000, mel_hz=100, num_mels=80
)
CLIP = ClipSpec(num_frames=4, fps=25, resolution=32, sample_rate_hz=16000, mel_hz=80, num_mels=80)


class NoisyAutoencoder(LinearAutoencoder):
    """Draws its latents, as Stable Diffusion's does."""

    def posterior(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, _ = super().posterior(frames)
        return mean, torch.full_like(mean, 0.25)


def autoencoder(seed: int = 0) -> LinearAutoencoder:
    return fitted(NoisyAutoencoder(patch=4, latent_channels=4), seed)


def fitted(network: LinearAutoencoder, seed: int = 0) -> LinearAutoencoder:
    moments = PatchMoments(patch=4)
    moments.update(torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1)
    network.fit_from_moments(moments.count, moments.total, moments.outer)
    return network


def encoder(**changes: Any) -> ClipEncoder:
    settings: dict[str, Any] = {
        "clip": CLIP,
        "audio_encoder": AUDIO_ENCODER,
        "mask": "released",
        "batch_size": 5,
        "device": "cpu",
    }
    return ClipEncoder(**{**settings, "autoencoder": autoencoder(), **changes})


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("for latents")
    for index in range(3):
        write_video(folder / "raw" / f"person {index}.mp4", 14 + index, sound_of(14 + index, loud=range(3, 6)))
    prepared(folder / "raw", folder / "shards", CLIP, sources_per_shard=2)
    return folder / "shards"


@pytest.fixture(scope="module")
def encoded(shards: Path) -> Path:
    out = shards.with_name("encoded")
    assert encode_shards(str(shards), out, encoder()) == EncodedSoFar(num_done=2, num_elsewhere=0)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def first_batches(folder: Path, samples: Samples, number: int = 3) -> list[dict[str, Any]]:
    settings: dict[str, Any] = {"batch_size": 2, "num_workers": 0, "seed": 1, "shuffle_buffer": 4, "max_bad_clips": 0}
    data = ClipDataModule(shards=str(folder), clip=CLIP, samples=samples, **settings)
    batches = iter(data.train_dataloader())
    return [data.on_after_batch_transfer(next(batches), 0) for _ in range(number)]


def from_pixels() -> UNetSamples:
    return UNetSamples(clip=CLIP, audio_encoder=AUDIO_ENCODER, windows_per_clip=2, mask="released")


def from_latents(mask: str = "released", audio_encoder: LogMelAudioEncoder = AUDIO_ENCODER) -> LatentSamples:
    return LatentSamples(clip=CLIP, audio_encoder=audio_encoder, windows_per_clip=2, mask=mask)


def test_any_frames_of_a_stored_array_come_back_in_half_precision():
    array = np.random.default_rng(0).normal(size=(9, 2, 3)).astype(np.float32)
    content, facts = stored_array(array)
    np.testing.assert_array_equal(np.load(BytesIO(content)), array.astype(np.float16))
    part = PartOf(content)
    np.testing.assert_array_equal(read_frames(part, facts, 4, 7, "here"), array[4:7].astype(np.float16))
    assert part.num_read == 3 * 2 * 3 * 2, "no more is read than those frames"


class PartOf:
    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)
        self.num_read = 0

    def __call__(self, first: int, size: int) -> bytes:
        self.num_read += size
        return self.content[first : first + size]


def test_a_frame_that_was_damaged_is_noticed_and_its_neighbours_are_not_suspected():
    content, facts = stored_array(np.ones((5, 4)))
    damaged = PartOf(content[:-1] + b"\0")
    assert read_frames(damaged, facts, 0, 4, "here").shape == (4, 4)
    with pytest.raises(ClipFault, match="here: frame 4 has another crc32"):
        read_frames(damaged, facts, 2, 5, "here")


def test_what_half_precision_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="beyond half precision"):
        stored_array(np.full((2, 2), 1e6))


def test_windows_are_those_of_the_online_way_and_hold_what_it_would_compute(shards: Path, encoded: Path):
    network = autoencoder()
    for online, stored in zip(
        first_batches(shards, from_pixels()), first_batches(encoded, from_latents()), strict=True
    ):
        for key in ("id", "first_frame", "seed"):
            assert list(online[key]) == list(stored[key])
        assert torch.equal(online["keep_mask"], stored["keep_mask"])
        torch.testing.assert_close(stored["audio"], online["audio"], atol=2e-3, rtol=1e-3)
        masked = online["frames"] * online["keep_mask"][:, None]
        for key, frames in (
            ("latents", online["frames"]),
            ("masked_latents", masked),
            ("reference_latents", online["reference"]),
        ):
            mean, std = network.posterior(frames.flatten(0, 1))
            torch.testing.assert_close(stored[key][:, :, 0].flatten(0, 1), mean, atol=2e-2, rtol=1e-3)
            torch.testing.assert_close(stored[key][:, :, 1].flatten(0, 1), std)
        assert "frames" not in stored


def test_an_interrupted_pass_goes_on_and_touches_nothing_that_is_whole(shards: Path, encoded: Path, tmp_path: Path):
    encode_shards(str(shards), tmp_path, encoder())
    expected = contents(encoded / "train")
    assert contents(tmp_path / "train") == expected
    (tmp_path / "train" / "000001.tar").unlink()
    before = (tmp_path / "train" / "000000.tar").stat().st_mtime_ns
    encode_shards(str(shards), tmp_path, encoder())
    assert contents(tmp_path / "train") == expected
    assert (tmp_path / "train" / "000000.tar").stat().st_mtime_ns == before


def test_a_shard_that_is_being_encoded_elsewhere_is_passed_over_and_is_encoded_once_it_was_let_go(
    shards: Path, encoded: Path, tmp_path: Path
):
    (tmp_path / "train").mkdir()
    with FileLock(tmp_path / "train" / ".000000.lock"):
        assert encode_shards(str(shards), tmp_path, encoder()) == EncodedSoFar(num_done=1, num_elsewhere=1)
        assert [path.name for path in (tmp_path / "train").glob("*.tar")] == ["000001.tar"]
    assert encode_shards(str(shards), tmp_path, encoder()) == EncodedSoFar(num_done=2, num_elsewhere=0)
    assert contents(tmp_path / "train") == contents(encoded / "train")
    assert {path.suffix for path in (tmp_path / "train").iterdir()} == {".tar", ".json"}, "no lock is left"


def test_a_shard_that_another_process_has_finished_since_one_looked_is_left_alone(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    encode_shards(str(shards), tmp_path, encoder())
    before = [path.stat().st_mtime_ns for path in (tmp_path / "train").iterdir()]
    look, too_early = encode._is_made_of, iter([False])
    monkeypatch.setattr(encode, "_is_made_of", lambda shard, target: next(too_early, look(shard, target)))
    assert encode_shards(str(shards), tmp_path, encoder()) == EncodedSoFar(num_done=2, num_elsewhere=0)
    assert [path.stat().st_mtime_ns for path in (tmp_path / "train").iterdir()] == before


@pytest.mark.slow
def test_two_processes_at_once_leave_the_bytes_of_one(shards: Path, tmp_path: Path):
    many = shutil.copytree(shards, tmp_path / "many")
    for number in range(2, 16):
        for suffix in (".tar", ".json"):
            shutil.copy(many / "train" / f"000001{suffix}", many / "train" / f"{number:06d}{suffix}")
    importable = encoder(
        autoencoder=fitted(LinearAutoencoder(patch=4, latent_channels=4))
    )  # by other processes, unlike this file
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn, initializer=spawn.Barrier(2).wait) as pool:
        for outs in (
            ("alone", "alone too"),
            ("both", "both"),
        ):  # in the second round neither has anything to import, so they meet
            for future in [pool.submit(encode_shards, str(many), tmp_path / out, importable) for out in outs]:
                future.result()
    expected = contents(tmp_path / "alone" / "train")
    assert len(expected) == 2 * 16
    assert contents(tmp_path / "alone too" / "train") == contents(tmp_path / "both" / "train") == expected


def test_another_network_or_mask_is_refused_in_the_same_folder(shards: Path, encoded: Path):
    for change in ({"autoencoder": autoencoder(seed=1)}, {"mask": "face"}, {"audio_encoder": OTHER_AUDIO_ENCODER}):
        with pytest.raises(WouldOverwrite, match="encoded with other networks or another mask"):
            encode_shards(str(shards), encoded, encoder(**change))
    with pytest.raises(BadConfig, match="is the data set itself"):
        encode_shards(str(shards), shards, encoder())
    with pytest.raises(WouldOverwrite, match="were not encoded here"):
        encode_shards(str(encoded), shards, encoder())


def test_training_with_another_mask_is_refused(encoded: Path):
    with pytest.raises(ClipMismatch, match="encoded with mask=released, this run wants face"):
        first_batches(encoded, from_latents("face"), 1)


def test_training_with_another_audio_encoder_is_refused(encoded: Path):
    with pytest.raises(ClipMismatch, match="were made by another audio encoder, or one with other settings"):
        first_batches(encoded, from_latents(audio_encoder=OTHER_AUDIO_ENCODER), 1)


def test_a_shard_whose_source_was_remade_is_encoded_anew_and_no_other(shards: Path, tmp_path: Path):
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(shards, source)
    encode_shards(str(source), out, encoder())
    untouched = (out / "train" / "000000.tar").stat().st_mtime_ns
    remade = source / "train" / "000001.tar"
    index = ClipIndex([checked_shard(remade, CLIP)])
    clips = [
        {key: content for key, content in index.read(clip).items() if not key.startswith("__")}
        for clip in range(len(index))
    ]
    write_shard(
        remade, [FinishedClip(f"remade/{number}", 15, members) for number, members in enumerate(clips)], clip=CLIP
    )
    encode_shards(str(source), out, encoder())
    assert read_sidecar(out / "train" / "000001.tar").keys.tolist() == [
        f"remade/{number}" for number in range(len(clips))
    ]
    assert (out / "train" / "000000.tar").stat().st_mtime_ns == untouched


def test_shards_without_latents_are_refused_and_encoded_ones_still_serve_pixels(shards: Path, encoded: Path):
    with pytest.raises(BrokenShard, match=r"no 'latents.npy' member"):
        first_batches(shards, from_latents(), 1)
    online, other = (first_batches(folder, from_pixels(), 1)[0] for folder in (shards, encoded))
    assert torch.equal(online["frames"], other["frames"])


def test_what_was_done_is_told_in_each_clips_facts(encoded: Path):
    with tarfile.open(encoded / "train" / "000000.tar") as archive:
        member = next(member for member in archive if member.name.endswith(".json"))
        content = archive.extractfile(member)
        assert content is not None
        facts = json.loads(content.read())["encoded"]
    assert facts["mask"] == "released"
    assert facts["latents.npy"]["shape"][1:] == [2, 2, 4, 8, 8]
    assert facts["audio.npy"]["shape"][1:] == [3, 80]
