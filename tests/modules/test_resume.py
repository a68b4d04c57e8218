"""A run that is stopped anywhere and resumed ends with the weights of one that was never stopped, to the bit."""

import os
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

import tiny_shards
from lipsync_lightning.callbacks.checkpoint import AtomicCheckpointIO, StepCheckpoint
from lipsync_lightning.callbacks.ema import TrainedWeightsEMA
from lipsync_lightning.callbacks.seed_steps import SeedSteps
from lipsync_lightning.callbacks.skip_nonfinite import SkipNonfinite
from lipsync_lightning.callbacks.stop_on_signal import StopOnSignal
from lipsync_lightning.data.augment import Augment
from lipsync_lightning.data.datamodule import ClipDataModule
from lipsync_lightning.data.samples import Lips, SyncNetSamples, UNetSamples
from lipsync_lightning.losses.syncnet_objectives import ContrastiveObjective
from lipsync_lightning.models.audio_encoder import LogMelAudioEncoder
from lipsync_lightning.modules.syncnet import SyncNetModule
from lipsync_lightning.modules.weights import newest_readable_checkpoint
from small_training import fit
from tiny_shards import CLIP, write_real_shards

STEPS = 9


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_real_shards(tmp_path_factory.mktemp("resume"), "train", [[20, 21], [22, 23], [24]])


class StopAt(Callback):
    """Calls something when a batch of a step begins, ends, or is about to change the weights."""

    def __init__(self, hook: str, step: int, action: Callable[[], None]) -> None:
        self.step, self.action = step, action
        setattr(self, hook, self._act)

    def _act(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.action()


def fail() -> None:
    raise OSError("the disk is gone")


def interrupt(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.fixture
def make_module(
    make_stage1: Callable[..., LightningModule], make_syncnet: Callable, training_arguments: dict[str, Any]
):
    def make(kind: str) -> LightningModule:
        torch.manual_seed(3)
        if kind == "stage1":
            return make_stage1(audio_dropout=0.3)
        if kind == "lora":
            return make_stage1(lora={"rank": 2, "alpha": 2, "targets": ["to_q", "to_out.0"]})
        objective = ContrastiveObjective(initial_temperature=0.1)
        return SyncNetModule(autoencoder=None, syncnet=make_syncnet(), objective=objective, **training_arguments)

    return make


def data_of(shards: Path, kind: str, num_workers: int = 0) -> ClipDataModule:
    encoder = LogMelAudioEncoder(num_tokens=3, columns_per_token=1, sample_rate_hz=16000, mel_hz=80, num_mels=8)
    samples = {
        "stage1": UNetSamples(clip=CLIP, audio_encoder=encoder, windows_per_clip=2, mask="released"),
        "syncnet": SyncNetSamples(clip=CLIP, windows_per_clip=2, min_gap_frames=5, sees=Lips(), augment=Augment()),
    }
    return tiny_shards.data_of(shards, samples[kind], batch_size=3, num_workers=num_workers, shuffle_buffer=2)


def trained(
    module: LightningModule, data: ClipDataModule, run: Path, *callbacks: Callback, accumulate: int = 1
) -> Trainer:
    usual = [SeedSteps(seed=1), StopOnSignal(), SkipNonfinite(most_in_a_row=2)]
    checkpoint = StepCheckpoint(run_dir=str(run), every_num_steps=4, num_kept=2)
    settings = {"max_steps": STEPS, "max_epochs": -1, "gradient_clip_val": 1.0, "accumulate_grad_batches": accumulate}
    settings |= {"enable_checkpointing": True, "plugins": [AtomicCheckpointIO()], "use_distributed_sampler": False}
    newest = newest_readable_checkpoint(run)
    return fit(module, data, *usual, checkpoint, *callbacks, ckpt_path=newest, default_root_dir=run, **settings)


def learned(module: LightningModule) -> dict[str, Tensor]:
    return {
        name: parameter.detach().clone() for name, parameter in module.named_parameters() if parameter.requires_grad
    }


def assert_same_weights(module: LightningModule, expected: dict[str, Tensor]) -> None:
    actual = learned(module)
    assert [name for name in expected if not torch.equal(actual[name], expected[name])] == []


KILL_POINTS = {  # and over how many batches each step accumulates its gradient
    "ctrl-c in a step": (1, "on_train_batch_start", 3, interrupt(signal.SIGINT)),
    "sigterm in an accumulated step": (2, "on_train_batch_start", 5, interrupt(signal.SIGTERM)),
    "sigusr1 after a checkpoint": (1, "on_train_batch_end", 4, interrupt(signal.SIGUSR1)),
    "an error while a batch is read": (2, "on_train_batch_start", 2, fail),
    "an error in backward": (1, "on_before_optimizer_step", 6, fail),
    "an error at the first step": (1, "on_train_batch_start", 0, fail),
    "an error after the last step": (2, "on_train_batch_end", STEPS, fail),
}


@pytest.fixture(scope="module")
def uninterrupted() -> dict[tuple[str, int], dict[str, Tensor]]:
    return {}


@pytest.mark.parametrize("point", KILL_POINTS)
@pytest.mark.parametrize("kind", ["syncnet", "stage1"])
def test_a_resumed_run_ends_with_the_weights_of_one_never_stopped(
    kind, point, shards, make_module, tmp_path, uninterrupted
):
    accumulate, *stop = KILL_POINTS[point]
    if (kind, accumulate) not in uninterrupted:
        straight = make_module(kind)
        trained(straight, data_of(shards, kind), tmp_path / "straight", accumulate=accumulate)
        uninterrupted[kind, accumulate] = learned(straight)
    run = tmp_path / "run"
    with pytest.raises(OSError, match="the disk is gone") if fail in stop else nullcontext():
        trained(make_module(kind), data_of(shards, kind), run, StopAt(*stop), accumulate=accumulate)
    assert fail in stop or newest_readable_checkpoint(run) is not None
    resumed = make_module(kind)
    trainer = trained(resumed, data_of(shards, kind), run, accumulate=accumulate)
    assert trainer.global_step == STEPS
    assert_same_weights(resumed, uninterrupted[kind, accumulate])


def test_a_killed_run_goes_on_from_its_last_checkpoint_and_with_another_number_of_workers(
    shards, make_module, tmp_path
):
    straight = make_module("syncnet")
    trained(straight, data_of(shards, "syncnet"), tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / f"step_{STEPS:08d}.ckpt"
    newest.unlink()  # as after kill -9: nothing newer than step 8
    resumed = make_module("syncnet")
    trained(resumed, data_of(shards, "syncnet", num_workers=2), tmp_path / "run")
    assert_same_weights(resumed, learned(straight))


def test_an_interrupted_run_without_its_data_state_would_differ(shards, make_module, tmp_path):
    """The control: what the tests above compare does depend on the order of the data."""
    straight, resumed = make_module("syncnet"), make_module("syncnet")
    trained(straight, data_of(shards, "syncnet"), tmp_path / "straight")
    stop = StopAt(*KILL_POINTS["ctrl-c in a step"][1:])
    trained(make_module("syncnet"), data_of(shards, "syncnet"), tmp_path / "run", stop)
    data = data_of(shards, "syncnet")
    data.load_state_dict = lambda state_dict: None
    trained(resumed, data, tmp_path / "run")
    expected, actual = learned(straight), learned(resumed)
    assert any(not torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", ["stage1", "lora"])
def test_averaged_weights_resume_to_the_bit_as_well(kind, shards, make_module, tmp_path):
    def averaged(run: str, *stop: Callback) -> LightningModule:
        module, average = make_module(kind), TrainedWeightsEMA(decay=0.7, update_every_n_steps=1)
        trained(module, data_of(shards, "stage1"), tmp_path / run, average, *stop)
        return module

    straight = averaged("straight")
    averaged("run", StopAt(*KILL_POINTS["ctrl-c in a step"][1:]))
    resumed = averaged("run")
    assert_same_weights(resumed, learned(straight))
