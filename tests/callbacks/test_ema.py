import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lipsync_lightning.callbacks.ema import TrainedWeightsEMA
from small_training import fit

DECAY = 0.5


class Line(LightningModule):
    """A line that learns, and a large network that does not."""

    frozen_parts = ("judge",)

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(1, 1, bias=False)
        self.judge = nn.Linear(100, 100).requires_grad_(False)
        nn.init.ones_(self.line.weight)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.line(batch).mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.validated_with = float(self.line.weight)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Weights(Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        self.seen.append(float(pl_module.line.weight))  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]


@pytest.fixture
def run() -> tuple[Line, TrainedWeightsEMA, Weights, Trainer]:
    torch.manual_seed(0)
    module, ema, weights = Line(), TrainedWeightsEMA(decay=DECAY, update_every_n_steps=1), Weights()
    ones = DataLoader(torch.ones(4, 1))
    return module, ema, weights, fit(module, ones, ema, weights, val=ones, val_check_interval=3, limit_val_batches=1)


def averaged(weights: list[float]) -> float:
    average = weights[0]
    for number, weight in enumerate(weights[1:], start=1):
        decay = min(DECAY, (1 + number) / (10 + number))
        average = decay * average + (1 - decay) * weight
    return average


def test_training_goes_its_own_way_and_validation_and_its_end_see_the_average(run):
    module, _, weights, _ = run
    assert weights.seen == pytest.approx([0.9, 0.8, 0.7, 0.6])
    assert module.validated_with == pytest.approx(averaged(weights.seen[:3]))
    assert float(module.line.weight) == pytest.approx(averaged(weights.seen))


def test_a_frozen_network_is_shared_and_not_saved_twice(run, tmp_path):
    module, ema, _, trainer = run
    assert ema._average_model.module.judge is module.judge
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert set(checkpoint["current_model_state"]) == {"line.weight"}


def test_the_average_goes_where_the_module_has_gone_since_it_was_copied(run):
    module, ema, _, trainer = run
    ema.on_train_start(trainer, module.to("meta"))
    assert {own.device.type for own in ema._average_model.parameters()} == {"meta"}
