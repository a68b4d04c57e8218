import warnings
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from math import log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer

from lipsync_lightning.callbacks import plateau_watch
from lipsync_lightning.callbacks.plateau_watch import Certainty, PlateauWatch, likely_causes, measure
from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data.datamodule import ClipDataModule
from lipsync_lightning.data.samples import SyncNetSamples
from lipsync_lightning.errors import BadConfig
from lipsync_lightning.losses.syncnet_objectives import ContrastiveObjective, CrossEntropyObjective
from lipsync_lightning.modules.syncnet import SyncNetModule
from wrong_sound import all_the_same, late, swapped, talking_faces, with_sounds

CLIP = ClipSpec(num_frames=4, fps=25, resolution=32, sample_rate_hz=16000, mel_hz=80, num_mels=80)
CONTRASTIVE = ContrastiveObjective(initial_temperature=0.07)
NUM_PAIRS, PATIENCE = 16, 40
CHANCE = log(NUM_PAIRS)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talking_faces(tmp_path_factory.mktemp("talking faces"), CLIP)


def data_of(shards: Path) -> ClipDataModule:
    samples = SyncNetSamples(clip=CLIP, windows_per_clip=4, min_gap_frames=8)
    settings: dict[str, Any] = {"num_workers": 0, "seed": 1, "shuffle_buffer": 128, "max_bad_clips": 0}
    return ClipDataModule(shards=str(shards), clip=CLIP, samples=samples, batch_size=NUM_PAIRS, **settings)


def new_watch(**changes: Any) -> PlateauWatch:
    return PlateauWatch(**{"patience_steps": PATIENCE, "margin": 0.05, **changes})


def fed(
    watch: PlateauWatch, losses: Iterable[float], *, first_step: int = 0, objective: Any = CONTRASTIVE, **changes: Any
) -> list[str]:
    """Show a watch these losses, one a step, as a trainer would, and return what it warned of."""
    facts = {
        "is_global_zero": True,
        "world_size": 1,
        "accumulate_grad_batches": 1,
        "datamodule": None,
        "num_pairs": NUM_PAIRS,
        "lr": 5e-4,
    }
    trainer = SimpleNamespace(**{**facts, **changes}, global_step=first_step)
    trainer.optimizers = [SimpleNamespace(param_groups=[{"lr": trainer.lr}])]
    module: Any = SimpleNamespace(objective=objective)
    watch.on_train_start(trainer, module)  # pyright: ignore[reportArgumentType]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number, loss in enumerate(losses, start=1):
            trainer.global_step = first_step + number // trainer.accumulate_grad_batches
            outputs = {"loss": torch.tensor(loss / trainer.accumulate_grad_batches)}
            watch.on_train_batch_end(trainer, module, outputs, {"mel": torch.zeros(trainer.num_pairs, 1)}, number - 1)  # pyright: ignore[reportArgumentType]
    return [str(warning.message) for warning in caught]


def first_cause(told: str) -> str:
    return next(line for line in told.splitlines() if line.startswith("1. "))


def noisy(level: float, steps: int) -> list[float]:
    return [level * (1 + 0.02 * (-1) ** step) for step in range(steps)]


def test_a_loss_that_stays_at_chance_is_told_once_with_both_figures():
    (told,) = fed(new_watch(), noisy(CHANCE, 400))
    assert told.startswith("step 40: SyncNet learns nothing. Its loss has stayed at 2.77")
    assert "for 40 steps, and guessing costs 2.773" in told


def test_causes_of_equal_weight_come_in_the_order_of_experience():
    (told,) = fed(new_watch(), noisy(CHANCE, 60))
    names = ["offset between lips and sound (", "batch too small (", "learning rate (", "wrong sound in the samples ("]
    assert [told.index(name) for name in names] == sorted(told.index(name) for name in names)
    assert "16 pairs are compared in a step" in told
    assert "it is 0.0005 now" in told
    assert told.count("not measured, since the data do not come from a ClipDataModule") == 2


@pytest.mark.parametrize(
    "losses",
    [
        [CHANCE * 0.985**step for step in range(400)],
        noisy(0.8 * CHANCE, 400),
        noisy(CHANCE, PATIENCE - 20) + noisy(0.7 * CHANCE, 200),
        noisy(1.5 * CHANCE, 400),
    ],
    ids=["falling", "low", "late to fall", "high"],
)
def test_a_loss_that_is_not_at_chance_is_not_told(losses):
    assert fed(new_watch(), losses) == []


def test_leaving_chance_starts_the_patience_anew():
    interrupted = noisy(CHANCE, PATIENCE - 15) + noisy(0.5 * CHANCE, 40) + noisy(CHANCE, 60)
    assert fed(new_watch(), interrupted) == []
    assert len(fed(new_watch(), interrupted + noisy(CHANCE, PATIENCE + 60))) == 1


def test_a_loss_that_is_not_finite_is_passed_over():
    assert len(fed(new_watch(), [float("nan"), *noisy(CHANCE, 30), float("inf"), *noisy(CHANCE, 40)])) == 1


def test_chance_is_that_of_the_pairs_of_all_ranks():
    assert fed(new_watch(), noisy(log(NUM_PAIRS), 80), world_size=2) == []
    assert "32 pairs are compared" in fed(new_watch(), noisy(log(2 * NUM_PAIRS), 80), world_size=2)[0]


def test_the_published_objective_is_at_chance_at_0_69_whatever_the_batch():
    assert "guessing costs 0.693" in fed(new_watch(), noisy(log(2), 80), objective=CrossEntropyObjective())[0]
    assert fed(new_watch(), noisy(CHANCE, 80), objective=CrossEntropyObjective()) == []


def test_optimizer_steps_are_counted_and_not_batches():
    assert fed(new_watch(), noisy(CHANCE, 4 * PATIENCE - 1), accumulate_grad_batches=4) == []
    (told,) = fed(new_watch(), noisy(CHANCE, 4 * PATIENCE), accumulate_grad_batches=4)
    assert told.startswith("step 40: SyncNet learns nothing. Its loss has stayed at 2.7")


def test_other_ranks_neither_measure_nor_tell(monkeypatch):
    monkeypatch.setattr(plateau_watch, "measure", pytest.fail)
    assert fed(new_watch(), noisy(CHANCE, 200), is_global_zero=False) == []


def test_before_a_plateau_nothing_is_measured_and_losses_stay_on_the_device_for_twenty_steps(monkeypatch):
    read = []
    monkeypatch.setattr(plateau_watch, "measure", pytest.fail)
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: read.append(len(self)) or [1.0] * len(self))
    fed(new_watch(), noisy(1.0, 100))
    assert read == [20] * 5


def test_one_pair_is_a_batch_too_small():
    (told,) = fed(new_watch(), [0.0] * 80, num_pairs=1)
    assert first_cause(told).startswith("1. batch too small (found): 1 pairs are compared")


def test_a_learning_rate_of_zero_comes_first():
    (told,) = fed(new_watch(), noisy(CHANCE, 80), lr=0.0)
    assert first_cause(told).startswith("1. learning rate (found): it is 0 now")


def test_state_survives_a_checkpoint_wherever_it_is_written():
    losses = noisy(CHANCE, 200)
    for stop in (7, 20, 33):
        before, after = new_watch(), new_watch()
        assert fed(before, losses[:stop]) == []
        after.load_state_dict(before.state_dict())
        (told,) = fed(after, losses[stop:], first_step=stop)
        assert (
            f"for {int(told.split('step ')[1].split(':')[0])} steps" in told
        )  # every step since the first has counted
        again = new_watch()
        again.load_state_dict(after.state_dict())
        assert fed(again, losses, first_step=200) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda sounds: [late(sound, 6) for sound in sounds],
            "offset between lips and sound (found): the sound comes 6 frames late in 32",
        ),
        (
            lambda sounds: [late(sound, -6) for sound in sounds],
            "offset between lips and sound (found): the sound comes 6 frames early in 32",
        ),
        (
            lambda sounds: [late(sound, 5 * number % 29 - 14) for number, sound in enumerate(sounds)],
            "offset between lips and sound (suspected): differs from clip to clip",
        ),
        (
            all_the_same,
            "wrong sound in the samples (found): of 32 clips 32 hold the same sound as another id, 0 are silent",
        ),
        (
            lambda sounds: [0 * sound for sound in sounds],
            "wrong sound in the samples (found): of 32 clips 0 hold the same sound as another id, 32 are silent",
        ),
        (
            swapped,
            "wrong sound in the samples (suspected): of 32 clips 0 hold the same sound as another id, 0 are silent, but in ",
        ),
        (lambda sounds: sounds, "batch too small (possible): 16 pairs"),
    ],
    ids=["late", "early", "late or early", "one sound", "silence", "swapped", "right"],
)
def test_what_is_wrong_with_the_data_comes_first_with_its_figure(shards, tmp_path, change, told):
    (report,) = fed(new_watch(), noisy(CHANCE, 60), datamodule=data_of(with_sounds(shards, tmp_path, CLIP, change)))
    assert first_cause(report).startswith(f"1. {told}")


def test_right_data_are_said_to_be_right(shards):
    (report,) = fed(new_watch(), noisy(CHANCE, 60), datamodule=data_of(shards))
    assert "offset between lips and sound (unlikely): the sound is in step in 32 clips together" in report
    assert "wrong sound in the samples (unlikely): of 32 clips 0 hold" in report


def test_sound_is_not_suspected_for_fitting_no_lips_of_a_few_clips(shards, tmp_path):
    measured = measure(data_of(with_sounds(shards, tmp_path, CLIP, swapped)))
    assert not isinstance(measured, str)
    sound, offsets = measured
    assert likely_causes((sound, offsets), 16, [1e-3])[0].certainty is Certainty.SUSPECTED
    causes = likely_causes((sound, replace(offsets, num_clips=13)), 16, [1e-3])
    assert {cause.certainty for cause in causes} == {Certainty.POSSIBLE}
    assert "whether it fits the lips, 13 clips are too few to tell, 32 are needed" in str(causes[-1])


def test_shards_that_are_gone_do_not_stop_the_training(tmp_path):
    (report,) = fed(new_watch(), noisy(CHANCE, 60), datamodule=data_of(tmp_path))
    assert "not measured: no shards at" in report


def validated(watch: PlateauWatch, auc: float, offset: float | None, **changes: Any) -> list[str]:
    """Show a watch the figures of a validation and return what it warned of."""
    metrics = {"val/auc": torch.tensor(auc)} | ({} if offset is None else {"val/offset_frames": torch.tensor(offset)})
    trainer: Any = SimpleNamespace(
        **{
            "is_global_zero": True,
            "sanity_checking": False,
            "global_step": 50,
            "callback_metrics": metrics,
            "datamodule": None,
            **changes,
        }
    )
    trainer.optimizers = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watch.on_validation_end(trainer, SimpleNamespace())  # pyright: ignore[reportArgumentType]
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("offset", "told"), [(-3.0, "the sound comes 3 frames late"), (2.0, "the sound comes 2 frames early")]
)
def test_a_syncnet_whose_best_match_lies_elsewhere_is_told_once_and_with_the_right_sign(offset, told):
    watch = new_watch()
    assert validated(watch, 0.8, offset) == [], "one validation of a few clips may be chance"
    (report,) = validated(watch, 0.8, offset)
    assert (
        f"(held-out AUC 0.80), but what belongs to the lips it hears elsewhere: in your held-out clips {told} (median)"
        in report
    )
    assert "run `prepare` again" in report
    assert validated(watch, 0.8, offset) == []
    resumed = new_watch()
    resumed.load_state_dict(watch.state_dict())
    assert validated(resumed, 0.8, offset) == []


@pytest.mark.parametrize(
    ("auc", "offset"),
    [(0.9, 1.0), (0.9, -1.0), (0.6, 5.0), (0.9, None)],
    ids=["nearly in step", "nearly in step too", "knows nothing", "not measured"],
)
def test_a_best_match_in_step_or_of_a_syncnet_that_knows_nothing_is_not_told(auc, offset):
    watch = new_watch()
    assert validated(watch, auc, offset) + validated(watch, auc, offset) == []


def test_a_best_match_that_lies_elsewhere_only_now_and_then_is_not_told():
    watch = new_watch()
    assert [validated(watch, 0.8, offset) for offset in (3.0, 0.0, 3.0, 1.0)] == [[]] * 4


def test_a_network_that_memorises_is_told_by_its_held_out_clips():
    watch = new_watch()
    assert [validated(watch, 0.53, None, global_step=step) for step in (0, 20, 30)] == [[]] * 3
    (report,) = validated(watch, 0.46, None, global_step=PATIENCE)
    assert (
        "SyncNet learns nothing. Its held-out AUC, 0.46 now, has stayed near the 0.50 of guessing since step 0"
        in report
    )
    assert validated(watch, 0.5, None, global_step=400) == []


def test_held_out_clips_that_were_told_apart_once_start_the_patience_anew():
    watch = new_watch()
    figures = [(0, 0.5), (30, 0.7), (60, 0.5), (90, 0.5)]
    assert [validated(watch, auc, None, global_step=step) for step, auc in figures] == [[]] * 4


def test_validations_before_training_and_of_other_ranks_do_not_count():
    for change in ({"sanity_checking": True}, {"is_global_zero": False}):
        watch = new_watch()
        assert [validated(watch, 0.5, None, global_step=step, **change) for step in (0, 400)] == [[]] * 2


@pytest.mark.parametrize(
    ("frames", "told"), [(6, "the sound comes 6 frames late"), (-6, "the sound comes 6 frames early")]
)
def test_an_offset_that_syncnet_takes_for_sync_is_found_in_the_clips_and_told_once(shards, tmp_path, frames, told):
    data = data_of(with_sounds(shards, tmp_path, CLIP, lambda sounds: [late(sound, frames) for sound in sounds]))
    watch = new_watch()
    (report,) = validated(watch, 0.8, 0.0, datamodule=data)
    assert (
        f"what it takes for sync is none: offset between lips and sound (found): {told} in 32 clips together" in report
    )
    assert "run `prepare` again" in report
    assert validated(watch, 0.8, 0.0, datamodule=data) == []


def test_right_clips_are_measured_once_and_nothing_is_told(shards, monkeypatch):
    watch = new_watch()
    assert validated(watch, 0.7, 0.0, datamodule=data_of(shards)) == []
    assert not watch.data_measured
    assert validated(watch, 0.8, 0.0, datamodule=data_of(shards)) == []
    monkeypatch.setattr(plateau_watch, "measure", pytest.fail)
    assert validated(watch, 0.9, 0.0, datamodule=data_of(shards)) == []


def test_other_ranks_do_not_tell_of_a_best_match():
    assert validated(new_watch(), 0.9, 4.0, is_global_zero=False) == []


def test_another_module_is_refused():
    with pytest.raises(
        BadConfig, match="needs a SyncNetModule whose objective has `chance`, got LightningModule with NoneType"
    ):
        new_watch().setup(SimpleNamespace(), LightningModule(), "fit")  # pyright: ignore[reportArgumentType]


def trained(shards: Path, syncnet: Any, arguments: dict[str, Any], folder: Path) -> tuple[PlateauWatch, list[str]]:
    watch = new_watch(patience_steps=30)
    module = SyncNetModule(
        autoencoder=None, syncnet=syncnet, objective=ContrastiveObjective(initial_temperature=0.07), **arguments
    )
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(max_steps=60, max_epochs=-1, accelerator="cpu", limit_val_batches=0, callbacks=[watch], **quiet)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, data_of(shards))
    trainer.save_checkpoint(folder / "end.ckpt")
    return watch, [str(warning.message) for warning in caught if "SyncNet learns nothing" in str(warning.message)]


def test_training_on_swapped_sound_is_told_and_training_on_right_sound_is_not(
    shards, tmp_path, make_syncnet, training_arguments
):
    arguments = {**training_arguments, "clip": CLIP, "optimizer": partial(torch.optim.AdamW, lr=1e-3)}
    wrong = with_sounds(shards, tmp_path / "wrong", CLIP, swapped)
    watch, told = trained(wrong, make_syncnet(), arguments, tmp_path)
    assert len(told) == 1
    assert first_cause(told[0]).startswith("1. wrong sound in the samples (suspected)")
    stored = torch.load(tmp_path / "end.ckpt", weights_only=True)["callbacks"]["PlateauWatch"]
    assert stored == watch.state_dict()
    assert stored["told"]
    watch, told = trained(shards, make_syncnet(), arguments, tmp_path)
    assert told == []
    assert watch.smoothed is not None
    assert watch.smoothed < 0.9
