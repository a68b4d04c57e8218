"""SyncNet learns a sound that is drawn into the frames, and learns nothing where the sound is another clip's."""

import pytest
import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from lipsync_lightning.clip import ClipBatch, WindowBatch
from lipsync_lightning.losses.contrastive import ContrastiveObjective
from lipsync_lightning.models.wav2lip_syncnet import Wav2LipSyncNet
from lipsync_lightning.modules.syncnet import SyncNetModule
from lipsync_lightning.modules.weights import network_weights

NUM_PATTERNS = 8


def toy_batch(tiny_clip, seed: int, shuffled: bool) -> ClipBatch:
    """One clip of each pattern: which stripe of the lower half is bright says which band of the mel is loud."""
    generator = torch.Generator().manual_seed(seed)
    pattern = torch.randperm(NUM_PATTERNS, generator=generator)
    side, stripe, band = tiny_clip.resolution, tiny_clip.resolution // NUM_PATTERNS, tiny_clip.num_mels // NUM_PATTERNS
    frames = 0.1 * torch.randn(NUM_PATTERNS, tiny_clip.num_frames, 3, side, side, generator=generator)
    mel = 0.1 * torch.randn(NUM_PATTERNS, 1, tiny_clip.num_mels, tiny_clip.mel_columns, generator=generator)
    heard = pattern[torch.randperm(NUM_PATTERNS, generator=generator)] if shuffled else pattern
    for row in range(NUM_PATTERNS):
        left, low = int(pattern[row]) * stripe, int(heard[row]) * band
        frames[row, ..., left : left + stripe] += 1
        mel[row, :, low : low + band] += 2
    return ClipBatch(frames=frames, mel=mel)


@pytest.fixture
def make_module(make_syncnet, training_arguments):
    def make() -> SyncNetModule:
        objective = ContrastiveObjective(initial_temperature=0.07)
        return SyncNetModule(syncnet=make_syncnet(), objective=objective, **training_arguments)

    return make


def test_it_learns_a_sound_that_shows_in_the_frames_and_no_sound_that_does_not(make_module, tiny_clip, train):
    heldout = [toy_batch(tiny_clip, seed, shuffled=False) for seed in range(1000, 1004)]

    def scores(shuffled: bool) -> dict[str, float]:
        training = [toy_batch(tiny_clip, seed, shuffled) for seed in range(40)]
        metrics = train(make_module(), training, steps=40, heldout=heldout).callback_metrics
        return {name: float(value) for name, value in metrics.items()}

    learned, control = scores(shuffled=False), scores(shuffled=True)
    assert learned["val/auc"] > 0.9
    assert learned["val/accuracy"] > 0.8
    assert learned["val/similarity_matching_mean"] > learned["val/similarity_foreign_mean"] + 0.2
    assert 0.3 < control["val/auc"] < 0.7


def test_the_calibration_comes_from_training_pairs_and_is_none_before_any(make_module, tiny_clip):
    module = make_module()
    assert module.calibration() is None
    module.log = lambda *_, **__: None
    module.training_step(toy_batch(tiny_clip, 0, shuffled=False), 0)
    vision, audio = module(toy_batch(tiny_clip, 0, shuffled=False))
    calibration = module.calibration()
    assert calibration is not None
    assert (vision @ audio.T).min() - 1 <= calibration.threshold <= (vision @ audio.T).max() + 1


def test_training_ends_with_a_network_whose_probability_of_a_half_is_the_threshold(
    make_module, tiny_clip, train, tmp_path
):
    module = make_module()
    assert module.syncnet.probability(torch.tensor([0.2, 0.7])).tolist() == pytest.approx([0.2, 0.7])
    train(module, [toy_batch(tiny_clip, seed, shuffled=False) for seed in range(20)], steps=20)
    calibration = module.calibration()
    assert calibration is not None
    assert calibration.scale > 1
    assert module.syncnet.probability(torch.tensor(calibration.threshold)).item() == pytest.approx(0.5)
    module.syncnet.save_pretrained(tmp_path)
    loaded = type(module.syncnet).from_pretrained(tmp_path)
    assert loaded.probability(torch.tensor(0.9)).item() == pytest.approx(
        module.syncnet.probability(torch.tensor(0.9)).item()
    )


def test_the_objectives_temperature_learns_too(make_module, tiny_clip, train):
    module = make_module()
    before = module.objective.log_scale.item()
    train(module, [toy_batch(tiny_clip, 0, shuffled=False)], steps=1)
    assert module.objective.log_scale.item() != before


def test_a_run_starts_from_another_runs_syncnet(make_module, tiny_clip, train, tmp_path):
    first, second = make_module(), make_module()
    train(first, [toy_batch(tiny_clip, 0, shuffled=False)], steps=1).save_checkpoint(tmp_path / "one.ckpt")
    second.load_weights(str(tmp_path / "one.ckpt"))
    assert set(network_weights(str(tmp_path / "one.ckpt"), "syncnet")) == set(second.syncnet.state_dict())
    assert all(
        torch.equal(second.syncnet.state_dict()[name], tensor) for name, tensor in first.syncnet.state_dict().items()
    )


class KnowsTheTime(nn.Module):
    """Lips and sound that hold the same number have the same embedding, and the further apart the numbers, the less alike they are."""

    def forward(self, frames: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        return self.embed(frames), self.embed_mel(mel)

    def embed_mel(self, mel: Tensor) -> Tensor:
        return self.embed(mel)

    def embed(self, images: Tensor) -> Tensor:
        angle = images.mean(dim=(1, 2, 3)) / 100
        return torch.stack([angle.cos(), angle.sin()], dim=1)


class KnowsNothing(KnowsTheTime):
    """Everything looks and sounds the same."""

    def embed(self, images: Tensor) -> Tensor:
        return functional.normalize(torch.ones(len(images), 2), dim=1)


def timed_batch(tiny_clip, early: int, num_lacking: int = 0) -> WindowBatch:
    """Windows whose frames hold their time and whose sound, `early` frames early, holds its own; some lack the sound around them."""
    time = torch.arange(10, 50, 5.0)
    side, columns = tiny_clip.resolution, tiny_clip.mel_columns
    heard = time[:, None] + torch.arange(-5, 6.0) + early
    heard[:num_lacking] = torch.nan
    return WindowBatch(  # pyright: ignore[reportCallIssue]
        frames=time[:, None, None, None, None].expand(-1, tiny_clip.num_frames, 3, side, side),
        mel=(time + early)[:, None, None, None].expand(-1, 1, tiny_clip.num_mels, columns),
        mel_around=heard[:, :, None, None, None].expand(-1, -1, 1, tiny_clip.num_mels, columns),
    )


def validated(
    syncnet: nn.Module, batches: list[WindowBatch], training_arguments
) -> tuple[SyncNetModule, dict[str, float]]:
    module = SyncNetModule(
        syncnet=syncnet, objective=ContrastiveObjective(initial_temperature=0.07), **training_arguments
    )  # pyright: ignore[reportArgumentType]
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    (scores,) = trainer.validate(module, DataLoader(batches, batch_size=None), verbose=False)  # pyright: ignore[reportArgumentType]
    return module, dict(scores)


@pytest.mark.parametrize(("early", "accuracy"), [(0, 1.0), (1, 1.0), (-1, 1.0), (3, 0.0), (-3, 0.0)])
def test_validation_tells_how_often_and_where_the_best_match_lies(tiny_clip, training_arguments, early, accuracy):
    _, scores = validated(KnowsTheTime(), [timed_batch(tiny_clip, early)] * 2, training_arguments)
    assert (scores["val/offset_accuracy"], scores["val/offset_frames"]) == (accuracy, early)


def test_embeddings_that_say_nothing_match_best_at_the_first_offset_tried(tiny_clip, training_arguments):
    _, scores = validated(KnowsNothing(), [timed_batch(tiny_clip, 0)], training_arguments)
    assert (scores["val/offset_accuracy"], scores["val/offset_frames"]) == (0.0, 5.0)


def test_windows_that_lack_sound_around_them_count_in_all_other_figures(tiny_clip, training_arguments):
    batches = [timed_batch(tiny_clip, 0, num_lacking=8), timed_batch(tiny_clip, 3, num_lacking=6)]
    module, scores = validated(KnowsTheTime(), batches, training_arguments)
    assert (scores["val/offset_accuracy"], scores["val/offset_frames"]) == (0.0, 3.0)
    assert module.last_similarities is not None
    assert [len(similarities) for similarities in module.last_similarities] == [16, 16]
    assert not any(similarities.isnan().any() for similarities in module.last_similarities)
    _, scores = validated(KnowsTheTime(), batches[:1], training_arguments)
    assert "val/auc" in scores
    assert "val/offset_accuracy" not in scores


def test_the_classic_syncnet_is_validated_by_the_sound_around_too(tiny_clip, training_arguments):
    sound = [{"in_channels": 1, "out_channels": 8, "stride": [tiny_clip.num_mels, tiny_clip.mel_columns]}]
    lips = [
        {
            "in_channels": 3 * tiny_clip.num_frames,
            "out_channels": 8,
            "stride": [tiny_clip.resolution // 2, tiny_clip.resolution],
        }
    ]
    _, scores = validated(
        Wav2LipSyncNet(audio_encoder=sound, visual_encoder=lips), [timed_batch(tiny_clip, 0)], training_arguments
    )
    assert 0 <= scores["val/offset_accuracy"] <= 1


def test_what_every_rank_reads_is_counted_once(tiny_clip, training_arguments, monkeypatch):
    monkeypatch.setattr("torchmetrics.metric.jit_distributed_available", lambda: True)
    monkeypatch.setattr(
        "torchmetrics.metric.gather_all_tensors", lambda values, group=None: [values, values]
    )  # as two ranks would
    module, _ = validated(KnowsTheTime(), [timed_batch(tiny_clip, 0)] * 2, training_arguments)
    assert module.last_similarities is not None
    assert [len(similarities) for similarities in module.last_similarities] == [16, 16]


def test_each_validation_counts_its_own_windows_only(tiny_clip, training_arguments):
    module, _ = validated(KnowsTheTime(), [timed_batch(tiny_clip, 3)], training_arguments)
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    (scores,) = trainer.validate(module, DataLoader([timed_batch(tiny_clip, 0)], batch_size=None), verbose=False)  # pyright: ignore[reportArgumentType]
    assert scores["val/offset_accuracy"] == 1
