"""SyncNet learns a sound that is drawn into frames or latents, and learns nothing where the sound is another clip's."""

from typing import Any

import pytest
import torch
from einops import rearrange
from lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.losses.similarity import calibrated
from lipsync_lightning.losses.syncnet_objectives import ContrastiveObjective
from lipsync_lightning.models.syncnet import StableSyncNet
from lipsync_lightning.modules.syncnet import SyncNetModule
from lipsync_lightning.modules.weights import network_weights

NUM_PATTERNS = 8


def toy_batch(tiny_clip, seed: int, shuffled: bool = False) -> dict[str, Any]:
    """One clip of each pattern: which stripe of the face is bright says which band of the mel is loud."""
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
    return {"frames": frames, "mel": mel, "seed": torch.arange(NUM_PATTERNS)}


@pytest.fixture
def latent_syncnet(tiny_clip) -> StableSyncNet:
    common: dict[str, Any] = {"dropout": 0.0, "norm_num_groups": 4}
    sound = {"in_channels": 1, "block_out_channels": [8, 16, 32], "downsample_factors": [4, 4, [5, 1]]}
    latents = {"in_channels": 4 * tiny_clip.num_frames, "block_out_channels": [16, 32], "downsample_factors": [2, 4]}
    return StableSyncNet(
        audio_encoder={**sound, **common, "attn_blocks": [0] * 3},
        visual_encoder={**latents, **common, "attn_blocks": [0] * 2},
    )


@pytest.fixture
def make_module(make_syncnet, training_arguments):
    def make(syncnet: nn.Module | None = None, autoencoder: nn.Module | None = None) -> SyncNetModule:
        objective = ContrastiveObjective(initial_temperature=0.07)
        given = syncnet or make_syncnet()
        return SyncNetModule(autoencoder=autoencoder, syncnet=given, objective=objective, **training_arguments)  # pyright: ignore[reportArgumentType]

    return make


@pytest.mark.parametrize("kind", ["pixels", "latents"])
def test_it_learns_a_sound_that_shows_in_the_frames_and_no_sound_that_does_not(
    make_module, tiny_clip, train, kind, latent_syncnet, tiny_autoencoder
):
    heldout = [toy_batch(tiny_clip, seed) for seed in range(1000, 1004)]
    state = {name: tensor.clone() for name, tensor in latent_syncnet.state_dict().items()}

    def scores(shuffled: bool) -> dict[str, Tensor]:
        latent_syncnet.load_state_dict(state)
        module = make_module() if kind == "pixels" else make_module(latent_syncnet, tiny_autoencoder)
        training = [toy_batch(tiny_clip, seed, shuffled) for seed in range(40)]
        return train(module, training, steps=40, heldout=heldout).callback_metrics

    learned, control = scores(shuffled=False), scores(shuffled=True)
    assert learned["val/auc"] > 0.9
    assert learned["val/accuracy"] > 0.8
    assert learned["val/similarity_matching_mean"] > learned["val/similarity_foreign_mean"] + 0.2
    assert 0.3 < control["val/auc"] < 0.7


def test_the_newest_validation_calibrates_also_a_run_that_is_resumed_and_ends_before_the_next(
    make_module, tiny_clip, train, tmp_path
):
    module, training = make_module(), [toy_batch(tiny_clip, seed) for seed in range(20)]
    before = module.objective.log_scale.item()
    train(module, training, steps=20, heldout=[toy_batch(tiny_clip, 1000)] * 2).save_checkpoint(tmp_path / "one.ckpt")
    assert module.objective.log_scale.item() != before
    assert module.last_similarities is not None
    scale, bias = calibrated(*module.last_similarities)
    assert scale > 1
    assert module.syncnet.config["calibration"] == {"scale": scale, "bias": bias}
    assert module.syncnet.probability(torch.tensor(-bias / scale)).item() == pytest.approx(0.5)
    checkpoint = torch.load(tmp_path / "one.ckpt", weights_only=True)
    checkpoint["state_dict"]["recent_similarity"] = torch.zeros(2, 2048)  # as older versions kept it
    torch.save(checkpoint, tmp_path / "one.ckpt")
    resumed = make_module()
    train(resumed, training, steps=21, checkpoint=tmp_path / "one.ckpt")
    assert not torch.equal(resumed.syncnet.audio_encoder.conv_in.weight, module.syncnet.audio_encoder.conv_in.weight)
    resumed.syncnet.save_pretrained(tmp_path)
    loaded = type(module.syncnet).from_pretrained(tmp_path)
    assert loaded.config["calibration"] == {"scale": scale, "bias": bias}


def test_a_run_that_saw_no_held_out_pairs_says_that_its_network_is_not_calibrated(make_module, tiny_clip, train):
    module = make_module()
    with pytest.warns(UserWarning, match=r"not calibrated.*; prepare held-out clips"):
        train(module, [toy_batch(tiny_clip, 0)], steps=1)
    assert module.syncnet.config["calibration"] is None


class RecordingSyncNet(nn.Module):
    """Remembers what it was shown."""

    def forward(self, frames: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        self.shown = frames
        return frames.flatten(1), mel.flatten(1)


def test_a_latent_syncnet_sees_the_latents_of_whole_faces(make_module, make_clip_batch, tiny_autoencoder):
    syncnet, batch = RecordingSyncNet(), make_clip_batch(3)
    make_module(syncnet, tiny_autoencoder)(batch)
    expected = tiny_autoencoder.encode(rearrange(batch["frames"], "b t c h w -> (b t) c h w"))
    torch.testing.assert_close(syncnet.shown, rearrange(expected, "(b t) c h w -> b (t c) h w", b=3))


def test_latents_that_are_drawn_belong_to_the_clip_and_not_to_the_batch(
    make_module, make_clip_batch, tiny_autoencoder, monkeypatch
):
    draw = lambda frames, own: torch.randn(len(frames), 4, 8, 8, generator=own[0])  # noqa: E731
    monkeypatch.setattr(tiny_autoencoder, "encode", draw)
    syncnet, batch = RecordingSyncNet(), make_clip_batch(3)
    module = make_module(syncnet, tiny_autoencoder)
    module(batch)
    together = syncnet.shown
    module({key: value[2:] for key, value in batch.items()})
    assert torch.equal(syncnet.shown, together[2:])
    module({**batch, "seed": batch["seed"] + 1})
    assert not torch.allclose(syncnet.shown, together)


def test_runs_resume_and_start_from_a_checkpoint_without_the_autoencoder_which_stays_as_it_was(
    make_module, tiny_clip, train, tmp_path, latent_syncnet, tiny_autoencoder
):
    module = make_module(latent_syncnet, tiny_autoencoder)
    before = {name: tensor.clone() for name, tensor in module.autoencoder.state_dict().items()}
    train(module, [toy_batch(tiny_clip, 0)], steps=1).save_checkpoint(tmp_path / "one.ckpt")
    checkpoint = torch.load(tmp_path / "one.ckpt", weights_only=True)
    assert all(torch.equal(module.autoencoder.state_dict()[name], tensor) for name, tensor in before.items())
    assert not any(name.startswith("autoencoder.") for name in checkpoint["state_dict"])
    weights = network_weights(str(tmp_path / "one.ckpt"), "syncnet")
    resumed = make_module(latent_syncnet, tiny_autoencoder)
    torch.nn.init.zeros_(latent_syncnet.audio_encoder.conv_in.weight)
    resumed.load_weights(str(tmp_path / "one.ckpt"))
    assert all(torch.equal(weights[name], tensor) for name, tensor in resumed.syncnet.state_dict().items())
    assert train(resumed, [toy_batch(tiny_clip, 0)], steps=2, checkpoint=tmp_path / "one.ckpt").global_step == 2


class KnowsTheTime(nn.Module):
    """Lips and sound that hold the same number have the same embedding, and further numbers less alike ones."""

    def calibrate(self, scale: float, bias: float) -> None:
        self.calibration = scale, bias

    def forward(self, frames: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        return self.embed_mel(frames), self.embed_mel(mel)

    def embed_mel(self, mel: Tensor) -> Tensor:
        angle = mel.mean(dim=(1, 2, 3)) / 100
        return torch.stack([angle.cos(), angle.sin()], dim=1)


@pytest.fixture
def timed_batch(tiny_clip):
    """A function: windows whose frames hold their time and whose sound, some frames early, holds its own."""

    def make(early: int, num_lacking: int = 0) -> dict[str, Tensor]:
        time = torch.arange(10, 50, 5.0)
        side, columns = tiny_clip.resolution, tiny_clip.mel_columns
        heard = time[:, None] + torch.arange(-5, 6.0) + early
        heard[:num_lacking] = torch.nan  # their clips lack some of the sound around them
        return {
            "frames": time[:, None, None, None, None].expand(-1, tiny_clip.num_frames, 3, side, side),
            "mel": (time + early)[:, None, None, None].expand(-1, 1, tiny_clip.num_mels, columns),
            "mel_around": heard[:, :, None, None, None].expand(-1, -1, 1, tiny_clip.num_mels, columns),
        }

    return make


def validated(module: SyncNetModule, batches: list[Any]) -> dict[str, float]:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(accelerator="cpu", logger=False, **quiet)
    (scores,) = trainer.validate(module, DataLoader(batches, batch_size=None), verbose=False)  # pyright: ignore[reportArgumentType]
    return dict(scores)


@pytest.mark.parametrize(("early", "accuracy"), [(0, 1.0), (-1, 1.0), (3, 0.0), (-3, 0.0)])
def test_validation_tells_how_often_and_where_the_best_match_lies(make_module, timed_batch, early, accuracy):
    scores = validated(make_module(KnowsTheTime()), [timed_batch(early)] * 2)
    assert (scores["val/offset_accuracy"], scores["val/offset_frames"]) == (accuracy, early)


def test_windows_that_lack_sound_around_them_count_in_all_other_figures_of_their_validation_only(
    make_module, timed_batch
):
    module, batches = make_module(KnowsTheTime()), [timed_batch(0, num_lacking=8), timed_batch(3, num_lacking=6)]
    scores = validated(module, batches)
    assert (scores["val/offset_accuracy"], scores["val/offset_frames"]) == (0.0, 3.0)
    assert module.last_similarities is not None
    assert [len(similarities) for similarities in module.last_similarities] == [16, 16]
    assert not any(similarities.isnan().any() for similarities in module.last_similarities)
    assert validated(module, [timed_batch(0)])["val/offset_accuracy"] == 1
    scores = validated(module, batches[:1])
    assert "val/auc" in scores
    assert "val/offset_accuracy" not in scores


def test_one_window_alone_cannot_be_learned_from_and_tells_nothing_held_out(make_module, timed_batch):
    module, one = make_module(KnowsTheTime()), {key: value[:1] for key, value in timed_batch(0).items()}
    with pytest.raises(BadConfig, match=r"raise data\.batch_size to 2"):
        module.training_step(one, 0)
    assert validated(module, [one]) == {}
    assert validated(module, [timed_batch(3)])["val/offset_frames"] == 3, "nothing of it is left"


def test_what_every_rank_reads_is_counted_once(make_module, timed_batch, monkeypatch):
    monkeypatch.setattr("torchmetrics.metric.jit_distributed_available", lambda: True)
    as_two_ranks_would = lambda values, group=None: [values, values]  # noqa: E731
    monkeypatch.setattr("torchmetrics.metric.gather_all_tensors", as_two_ranks_would)
    module = make_module(KnowsTheTime())
    validated(module, [timed_batch(0)] * 2)
    assert module.last_similarities is not None
    assert [len(similarities) for similarities in module.last_similarities] == [16, 16]
