from collections import Counter
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lipsync_lightning.clip import ClipSpec, lower_half
from lipsync_lightning.data.augment import Augment
from lipsync_lightning.data.datamodule import ClipDataModule
from lipsync_lightning.data.latent_samples import StoredFaces
from lipsync_lightning.data.samples import (
    HeldoutSyncNetSamples,
    Lips,
    SyncNetSamples,
    UNetSamples,
    WholeFaces,
    clip_waveform,
)
from lipsync_lightning.errors import BadConfig, ClipTooShort
from lipsync_lightning.media.frames import to_float
from lipsync_lightning.models.audio_encoder import AudioEncoder, LogMelAudioEncoder, WhisperAudioEncoder
from tiny_shards import CLIP, data_of, write_real_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_real_shards(tmp_path_factory.mktemp("shards of data"), "train", [[14, 14], [14]])
    return write_real_shards(folder, "heldout", [[14]])


LOG_MEL = LogMelAudioEncoder(num_tokens=3, columns_per_token=1, sample_rate_hz=16000, mel_hz=80, num_mels=80)


def unet_data(shards: Path, encoder: AudioEncoder = LOG_MEL) -> ClipDataModule:
    samples = UNetSamples(clip=CLIP, audio_encoder=encoder, windows_per_clip=1, mask="released")
    return data_of(shards, samples)


def syncnet_data(
    shards: Path, clip: ClipSpec = CLIP, batch_size: int = 2, sees: WholeFaces | None = None
) -> ClipDataModule:
    settings: Any = {"clip": clip, "windows_per_clip": 2, "min_gap_frames": 4, "sees": sees or WholeFaces()}
    samples, heldout = SyncNetSamples(**settings), HeldoutSyncNetSamples(**settings, max_offset_frames=2)
    return data_of(shards, samples, heldout_samples=heldout, clip=clip, batch_size=batch_size)


def test_batches_have_the_promised_keys_shapes_and_ranges(shards: Path):
    data = unet_data(shards)
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    for key in ("frames", "reference"):
        assert (batch[key].shape, batch[key].dtype) == ((2, 4, 3, 32, 32), torch.float32)
        assert -1 <= batch[key].min() <= batch[key].max() <= 1
    assert batch["frames"].min() < -0.3  # dark frames of `numbered_frames`: neither [0, 1] nor [0, 255]
    assert batch["keep_mask"].shape == (2, 1, 32, 32)
    assert (batch["keep_mask"].min(), batch["keep_mask"].max()) == (0, 1)
    again = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert again["keep_mask"].data_ptr() == batch["keep_mask"].data_ptr()  # moved to the device once
    assert batch["audio"].shape == (2, 4, 3, 80)
    assert batch["mel"].shape == (2, 1, 80, CLIP.mel_columns)
    assert batch["first_frame"].dtype == batch["seed"].dtype == torch.int64
    assert len(batch["id"]) == 2


def test_validation_reads_the_heldout_clips_once_and_the_same_every_time(shards: Path):
    loader = unet_data(shards).val_dataloader()
    one, other = list(loader), list(loader)
    assert [batch["id"] for batch in one] == [["heldout/0_0"]]
    assert torch.equal(one[0]["frames"], other[0]["frames"])
    epochs = unet_data(shards).train_dataloader()
    trained_on = {key for _ in range(6) for batch in epochs for key in batch["id"]}
    assert trained_on == {"train/0_0", "train/0_1", "train/1_0"}


def test_a_batch_of_syncnet_holds_the_same_clip_at_other_times_and_other_clips(shards: Path):
    for batch in islice(syncnet_data(shards, batch_size=6).train_dataloader(), 3):
        windows = set(zip(batch["id"], batch["first_frame"].tolist(), strict=True))
        assert sorted(Counter(key for key, _ in windows).values()) == [2, 2, 2]


def test_windows_of_any_length_that_fits_are_cut_from_the_same_shards(shards: Path):
    of_length = {num: ClipSpec(**(CLIP.as_dict() | {"num_frames": num})) for num in (3, 10, 16)}
    for num_frames in (3, 10):
        batch = next(iter(syncnet_data(shards, of_length[num_frames]).train_dataloader()))
        assert batch["frames"].shape[:2] == (2, num_frames)
    with pytest.raises(ClipTooShort, match=r"all 3 clips at .* are too short: the longest has 14 frames"):
        syncnet_data(shards, of_length[16]).train_dataloader()


@pytest.mark.parametrize("training", [True, False])
def test_windows_that_are_trained_on_are_changed_and_no_others(
    shards: Path, monkeypatch: pytest.MonkeyPatch, training: bool
):
    for data in (syncnet_data(shards), unet_data(shards)):
        plain = next(iter(data.train_dataloader()))
        monkeypatch.setattr(data.samples, "augment", Augment())
        state = {"training": training, "validating": not training, "sanity_checking": False, "is_last_batch": False}
        data.trainer = SimpleNamespace(**state)  # pyright: ignore[reportAttributeAccessIssue]
        batch = data.on_after_batch_transfer(dict(plain), 0)
        assert torch.equal(batch["frames"], to_float(plain["frames"])) != training
        assert torch.equal(batch["mel"], plain["mel"]) != (training and "reference" not in batch), (
            "losses hear the truth"
        )


def test_stored_latents_are_not_changed(shards: Path):
    with pytest.raises(BadConfig, match="augment changes pictures"):
        SyncNetSamples(clip=CLIP, windows_per_clip=1, min_gap_frames=1, sees=StoredFaces(), augment=Augment())


def test_lips_that_travel_alone_are_the_lower_halves_of_whole_faces_to_the_bit(shards: Path):
    batches = []
    for sees in (Lips(), WholeFaces()):
        data = syncnet_data(shards, batch_size=6, sees=sees)
        batch = next(iter(data.train_dataloader()))
        assert batch[sees.key].dtype == torch.uint8
        batches.append(data.on_after_batch_transfer(batch, 0))
    alone, whole = batches
    assert torch.equal(alone["lips"], lower_half(whole["frames"]))
    assert alone.keys() ^ whole.keys() == {"lips", "frames"}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_whisper_s_tokens_are_made_where_the_batch_is_and_are_those_of_the_whole_sound(shards: Path, num_workers: int):
    sizes = {"n_audio_ctx": 15, "n_audio_state": 16, "n_audio_head": 2, "n_audio_layer": 1}  # chunks of 7.5 frames
    encoder = WhisperAudioEncoder(n_mels=80, **sizes)
    data = unet_data(shards, encoder)
    data.num_workers = num_workers
    index = data.clip_index("train", max_shards=9)
    sounds = {key: clip_waveform(index.read(number)) for number, key in enumerate(index.keys.tolist())}
    for batch in islice(data.train_dataloader(), 4):
        assert "audio" not in batch, "nothing but a log-mel is computed in a worker"
        batch = data.on_after_batch_transfer(batch, 0)
        rows = zip(batch["id"], batch["first_frame"].tolist(), batch["audio"], strict=True)
        for key, first, tokens in rows:
            expected = encoder.tokens(sounds[key], 14)[first : first + 4]
            torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-6)
