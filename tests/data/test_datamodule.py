from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch

from lipsync_lightning.cli import one_sentence
from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data.datamodule import ClipDataModule
from lipsync_lightning.data.samples import HeldoutSyncNetSamples, SyncNetSamples, UNetSamples
from lipsync_lightning.errors import BadMedia, BrokenShard, ClipMismatch, ClipTooShort, MissingShards
from lipsync_lightning.models.audio_encoder import LogMelAudioEncoder
from tiny_media import prepared, sound_of, write_video


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards of data")
    clip = ClipSpec(num_frames=4, fps=25, resolution=32, sample_rate_hz=16000, mel_hz=80, num_mels=80)
    for index in range(4):
        write_video(folder / "raw" / f"person {index}.mp4", 14, sound_of(14, loud=range(index)))
    prepared(folder / "raw", folder / "shards", clip, sources_per_shard=2, num_heldout=1)
    return folder / "shards"


def data_of(shards: Path, clip: ClipSpec, *, num_workers: int = 0, batch_size: int = 2) -> ClipDataModule:
    encoder = LogMelAudioEncoder(num_tokens=3, columns_per_token=1, sample_rate_hz=16000, mel_hz=80, num_mels=80)
    samples = UNetSamples(clip=clip, audio_encoder=encoder, windows_per_clip=1, mask="released")
    return ClipDataModule(
        shards=str(shards),
        clip=clip,
        samples=samples,
        batch_size=batch_size,
        num_workers=num_workers,
        seed=1,
        shuffle_buffer=4,
        max_bad_clips=0,
    )


def test_batches_have_the_promised_keys_shapes_and_ranges(shards: Path, tiny_clip: ClipSpec):
    data = data_of(shards, tiny_clip)
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    for key in ("frames", "reference"):
        assert batch[key].shape == (2, 4, 3, 32, 32)
        assert batch[key].dtype == torch.float32
        assert -1 <= batch[key].min() <= batch[key].max() <= 1
    assert batch["frames"].min() < -0.3  # dark frames of `numbered_frames`: neither [0, 1] nor [0, 255]
    assert batch["keep_mask"].shape == (2, 1, 32, 32)
    assert batch["keep_mask"].unique().tolist()[:: len(batch["keep_mask"].unique()) - 1] == [0, 1]
    assert batch["audio"].shape == (2, 4, 3, 80)
    assert batch["mel"].shape == (2, 1, 80, tiny_clip.mel_columns)
    assert batch["first_frame"].dtype == torch.int64
    assert len(batch["id"]) == 2


def test_validation_reads_the_heldout_clips_once_and_the_same_every_time(shards: Path, tiny_clip: ClipSpec):
    loader = data_of(shards, tiny_clip).val_dataloader()
    one, other = list(loader), list(loader)
    assert [len(batch["id"]) for batch in one] == [1]
    assert torch.equal(one[0]["frames"], other[0]["frames"])
    training = {
        key
        for batch, _ in zip(data_of(shards, tiny_clip).train_dataloader(), range(6), strict=False)
        for key in batch["id"]
    }
    assert len(training) == 3
    assert one[0]["id"][0] not in training


def syncnet_data(shards: Path, clip: ClipSpec, *, batch_size: int) -> ClipDataModule:
    windows = {"clip": clip, "windows_per_clip": 2, "min_gap_frames": 4}
    return ClipDataModule(
        shards=str(shards),
        clip=clip,
        samples=SyncNetSamples(**windows),
        heldout_samples=HeldoutSyncNetSamples(**windows, max_offset_frames=2),
        batch_size=batch_size,
        num_workers=0,
        seed=1,
        shuffle_buffer=4,
        max_bad_clips=0,
    )


def test_only_heldout_windows_bring_the_sound_around_them(shards: Path, tiny_clip: ClipSpec):
    data = syncnet_data(shards, tiny_clip, batch_size=2)
    (heldout,) = data.val_dataloader()
    assert heldout["mel_around"].shape == (2, 5, 1, 80, tiny_clip.mel_columns)
    assert "mel_around" not in next(iter(data.train_dataloader()))


def test_a_batch_of_syncnet_holds_the_same_clip_at_other_times_and_other_clips(shards: Path, tiny_clip: ClipSpec):
    for batch in islice(syncnet_data(shards, tiny_clip, batch_size=6).train_dataloader(), 4):
        windows = set(zip(batch["id"], batch["first_frame"].tolist(), strict=True))
        assert sorted(Counter(key for key, _ in windows).values()) == [2, 2, 2]


@pytest.mark.parametrize("num_frames", [3, 10])
def test_windows_of_any_length_are_cut_from_the_same_shards(shards: Path, tiny_clip: ClipSpec, num_frames: int):
    clip = ClipSpec(**(tiny_clip.as_dict() | {"num_frames": num_frames}))
    batch = next(iter(syncnet_data(shards, clip, batch_size=2).train_dataloader()))
    assert batch["frames"].shape[:2] == (2, num_frames)
    assert batch["mel"].shape == (2, 1, 80, clip.mel_columns)


def test_a_data_set_without_heldout_clips_has_no_validation(shards: Path, tmp_path: Path, tiny_clip: ClipSpec):
    (tmp_path / "train").symlink_to(shards / "train")
    assert data_of(tmp_path, tiny_clip).val_dataloader() == []


def test_a_resumed_run_reads_what_the_first_would_have_read_next(shards: Path, tiny_clip: ClipSpec):
    fresh, resumed = data_of(shards, tiny_clip), data_of(shards, tiny_clip, num_workers=1)
    resumed.load_state_dict({"windows_read": 4, "global_step": 2})
    _, _, third, fourth = islice(fresh.train_dataloader(), 4)
    for expected, batch in zip((third, fourth), resumed.train_dataloader(), strict=False):
        assert batch["id"] == expected["id"]
        assert all(
            torch.equal(batch[key], expected[key])
            for key in ("frames", "reference", "audio", "mel", "first_frame", "seed")
        )


def test_a_data_set_of_clips_that_are_all_too_short_is_refused(shards: Path, tiny_clip: ClipSpec):
    data = data_of(shards, tiny_clip)
    data.samples.clip = ClipSpec(**(tiny_clip.as_dict() | {"num_frames": 16}))  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ClipTooShort, match=r"all 3 clips at .* are too short: the longest has 14 frames"):
        data.train_dataloader()


def test_shards_are_asked_for_before_training(tmp_path: Path, shards: Path, tiny_clip: ClipSpec):
    data_of(shards, tiny_clip).require_shards("train")
    with pytest.raises(MissingShards, match="make them with"):
        data_of(tmp_path, tiny_clip).require_shards("train")
    (tmp_path / "train").mkdir()
    with pytest.raises(MissingShards, match="holds no train clips"):
        data_of(tmp_path, tiny_clip).require_shards("train")
    other = ClipSpec(**(tiny_clip.as_dict() | {"resolution": 64}))
    with pytest.raises(ClipMismatch, match="resolution 32 against 64"):
        data_of(shards, other).require_shards("train")


def test_an_error_in_a_data_worker_is_told_in_one_sentence(shards: Path, tiny_clip: ClipSpec):
    data = data_of(shards, tiny_clip, num_workers=1)
    loader = data.train_dataloader()
    loader.dataset.samples = _broken  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(BrokenShard) as caught:
        next(iter(loader))
    told = one_sentence(caught.value)
    assert told.endswith(": it does not decode (bad clip number 1, 0 allowed by data.max_bad_clips)")
    assert "Traceback" not in told


def _broken(sample: object, rng: object, wanted: object) -> list:
    raise BadMedia("it does not decode")
