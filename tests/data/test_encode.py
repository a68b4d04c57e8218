"""Latents and audio tokens ahead of time: what is stored is what training would compute."""

import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from filelock import FileLock
from torch.nn import Identity

from lipsync_lightning.data.encode import ClipEncoder, encode_shards
from lipsync_lightning.data.latent_samples import LatentSamples, StoredFaces
from lipsync_lightning.data.samples import Samples, SyncNetSamples, UNetSamples, WholeFaces
from lipsync_lightning.errors import BadConfig, BrokenShard, ClipMismatch, WouldOverwrite
from lipsync_lightning.models.audio_encoder import LogMelAudioEncoder, WhisperAudioEncoder
from lipsync_lightning.models.autoencoder import LinearAutoencoder, PatchMoments, StableDiffusionAutoencoder, drawn
from lipsync_lightning.modules.syncnet import SyncNetModule
from lipsync_lightning.shards.format import FinishedClip, read_sidecar, write_shard
from lipsync_lightning.shards.reader import ClipIndex
from tiny_shards import CLIP, data_of, find_shards, write_real_shards

SETTINGS = {"num_tokens": 3, "columns_per_token": 1, "sample_rate_hz": 16000, "mel_hz": 80, "num_mels": 80}
AUDIO_ENCODER = LogMelAudioEncoder(**SETTINGS)
OTHER_AUDIO_ENCODER = LogMelAudioEncoder(**SETTINGS | {"mel_hz": 100})


class NoisyAutoencoder(LinearAutoencoder):
    """Draws its latents, as Stable Diffusion's does."""

    def posterior(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = super().encode(frames)
        return mean, torch.full_like(mean, 0.25)

    def encode(self, frames: torch.Tensor, generator: Any = None) -> torch.Tensor:
        return drawn(*self.posterior(frames), generator)


def autoencoder(seed: int = 0) -> LinearAutoencoder:
    network, moments = NoisyAutoencoder(patch=4, latent_channels=4), PatchMoments(patch=4)
    moments.update(torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1)
    network.fit_from_moments(moments.count, moments.total, moments.outer)
    return network


def encoder(**changes: Any) -> ClipEncoder:
    settings = {
        "clip": CLIP,
        "audio_encoder": AUDIO_ENCODER,
        "mask": "released",
        "batch_size": 5,
        "device": "cpu",
        "dtype": "float32",
    }
    return ClipEncoder(**{**settings, "autoencoder": autoencoder(), **changes})


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_real_shards(tmp_path_factory.mktemp("for latents"), "train", [[14, 15], [16]])


@pytest.fixture(scope="module")
def encoded(shards: Path) -> Path:
    out = shards.with_name("encoded")
    assert encode_shards(str(shards), out, encoder()) == (2, 0)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"}


def written_at(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}


def first_batches(folder: Path, samples: Samples, number: int = 3) -> list[dict[str, Any]]:
    data = data_of(folder, samples)
    return [data.on_after_batch_transfer(batch, 0) for batch in islice(data.train_dataloader(), number)]


def from_pixels() -> UNetSamples:
    return UNetSamples(clip=CLIP, audio_encoder=AUDIO_ENCODER, windows_per_clip=2, mask="released")


def from_latents(mask: str = "released", audio_encoder: LogMelAudioEncoder = AUDIO_ENCODER) -> LatentSamples:
    return LatentSamples(clip=CLIP, audio_encoder=audio_encoder, windows_per_clip=2, mask=mask)


def test_windows_are_those_of_the_online_way_and_hold_what_it_would_compute(shards: Path, encoded: Path):
    network = autoencoder()
    from_both = zip(first_batches(shards, from_pixels()), first_batches(encoded, from_latents()), strict=True)
    for online, stored in from_both:
        for key in ("id", "first_frame", "seed"):
            assert list(online[key]) == list(stored[key])
        assert torch.equal(online["keep_mask"], stored["keep_mask"])
        torch.testing.assert_close(stored["audio"], online["audio"], atol=2e-3, rtol=1e-3)
        expected = {
            "latents": online["frames"],
            "masked_latents": online["frames"] * online["keep_mask"][:, None],
            "reference_latents": online["reference"],
        }
        for key, frames in expected.items():
            mean, std = network.posterior(frames.flatten(0, 1))
            torch.testing.assert_close(stored[key][:, :, 0].flatten(0, 1), mean, atol=2e-2, rtol=1e-3)
            torch.testing.assert_close(stored[key][:, :, 1].flatten(0, 1), std)
        assert "frames" not in stored


@pytest.mark.parametrize("whisper", [False, True])
def test_stored_states_give_the_tokens_of_the_online_way_and_take_far_less_room(shards: Path, tmp_path: Path, whisper):
    sizes: Any = {"n_mels": 80, "n_audio_ctx": 15, "n_audio_state": 16, "n_audio_head": 2, "n_audio_layer": 1}
    network = WhisperAudioEncoder(**sizes) if whisper else AUDIO_ENCODER
    encode_shards(str(shards), tmp_path, encoder(audio_encoder=network))
    settings: Any = {"clip": CLIP, "audio_encoder": network, "windows_per_clip": 2, "mask": "released"}
    online, stored = first_batches(shards, UNetSamples(**settings)), first_batches(tmp_path, LatentSamples(**settings))
    for one, other in zip(online, stored, strict=True):
        torch.testing.assert_close(other["audio"], one["audio"], atol=2e-3, rtol=1e-3)
    index = ClipIndex(find_shards(tmp_path, "train", CLIP), members=("states.npy",))
    tokens_size = 2 * int(index.num_frames[0]) * one["audio"][0, 0].numel()  # pyright: ignore[reportPossiblyUnboundVariable]
    assert not whisper or len(index.read(0)["states.npy"]) < tokens_size / 4


def test_half_precision_of_the_autoencoder_changes_what_is_stored_little_and_not_who_made_it(
    shards: Path, tmp_path: Path
):
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = AutoencoderKL(block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, **blocks)
    for dtype in ("float32", "bfloat16"):  # the former first, for the latter changes the network
        encode_shards(
            str(shards), tmp_path / dtype, encoder(autoencoder=StableDiffusionAutoencoder(vae=vae), dtype=dtype)
        )
    half, whole = (first_batches(tmp_path / dtype, from_latents(), 1)[0] for dtype in ("bfloat16", "float32"))
    assert half["made_by"] == whole["made_by"]
    difference = (half["latents"] - whole["latents"]).norm() / whole["latents"].norm()
    assert 0 < difference < 0.02


def test_syncnet_sees_the_same_from_stored_latents_as_from_faces(shards: Path, encoded: Path):
    network, settings = autoencoder(), {"clip": CLIP, "windows_per_clip": 2, "min_gap_frames": 4}
    module: Any = SyncNetModule(
        **{"autoencoder": network, "syncnet": Identity(), "objective": Identity(), "clip": CLIP},
        **{"optimizer": None, "schedule": None},  # pyright: ignore[reportArgumentType]
    )
    faces, stored = (
        first_batches(folder, SyncNetSamples(**settings, sees=sees), 1)[0]
        for folder, sees in ((shards, WholeFaces()), (encoded, StoredFaces()))
    )
    assert torch.equal(faces["mel"], stored["mel"])
    torch.testing.assert_close(module.lips(stored), module.lips(faces), atol=2e-2, rtol=1e-3)
    with pytest.raises(ClipMismatch, match="made by another autoencoder"):
        module.lips(stored | {"made_by": ["another"] * 2})
    with pytest.raises(BadConfig, match=r"looks at latents or frames.*set data\.samples\.sees\._target_"):
        module.lips({"lips": faces["frames"], "mel": faces["mel"]})


def test_an_interrupted_pass_goes_on_and_leaves_alone_what_is_whole_or_another_process_encodes(
    shards: Path, encoded: Path, tmp_path: Path
):
    (tmp_path / "train").mkdir()
    with FileLock(tmp_path / "train" / "000000.lock"):
        assert encode_shards(str(shards), tmp_path, encoder()) == (1, 1)
    before = written_at(tmp_path / "train")
    assert list(before) == ["000001.tar"]
    assert encode_shards(str(shards), tmp_path, encoder()) == (2, 0)
    assert contents(tmp_path / "train") == contents(encoded / "train")
    assert written_at(tmp_path / "train").items() > before.items()


def test_another_network_or_mask_is_refused_in_the_same_folder(shards: Path, encoded: Path):
    before = written_at(encoded / "train")
    for change, told in (
        ({"autoencoder": autoencoder(seed=1)}, "made_by"),
        ({"mask": "face"}, "mask"),
        ({"audio_encoder": OTHER_AUDIO_ENCODER}, "states_by"),
    ):
        with pytest.raises(WouldOverwrite, match=f"was encoded with another {told}; choose another out="):
            encode_shards(str(shards), encoded, encoder(**change))
    with pytest.raises(BadConfig, match="is the data set itself"):
        encode_shards(str(shards), shards, encoder())
    with pytest.raises(WouldOverwrite, match="choose another out="):
        encode_shards(str(encoded), shards, encoder())
    assert written_at(encoded / "train") == before


def test_a_shard_whose_source_was_remade_is_encoded_anew_and_no_other(shards: Path, encoded: Path, tmp_path: Path):
    source, out = shutil.copytree(shards, tmp_path / "source"), shutil.copytree(encoded, tmp_path / "out")
    untouched = written_at(out / "train")["000000.tar"]
    (sample,) = (ClipIndex(find_shards(source, "train", CLIP)).read(2),)
    remade = FinishedClip("remade/0", 16, {key: sample[key] for key in ("mp4", "flac", "json")})
    write_shard(source / "train" / "000001.tar", [remade], clip=CLIP)
    encode_shards(str(source), out, encoder())
    assert read_sidecar(out / "train" / "000001.tar").keys.tolist() == ["remade/0"]
    assert written_at(out / "train")["000000.tar"] == untouched


def test_shards_without_latents_are_refused_and_encoded_ones_still_serve_pixels(shards: Path, encoded: Path):
    with pytest.raises(BrokenShard, match=r"no 'latents.npy' member; run `latents` again"):
        first_batches(shards, from_latents(), 1)
    online, other = (first_batches(folder, from_pixels(), 1)[0] for folder in (shards, encoded))
    assert torch.equal(online["frames"], other["frames"])
