import csv
from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lipsync_lightning.callbacks.similarity_histogram import NUM_BINS, SimilarityHistogram, histogram_row
from lipsync_lightning.errors import BadConfig


class Judge(LightningModule):
    """Leaves similarities as SyncNetModule does: when its own validation ends."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.last_similarities: tuple[Tensor, Tensor] | None = None

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(batch).mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None: ...

    def on_validation_epoch_end(self) -> None:
        step = self.trainer.global_step
        self.last_similarities = (torch.full((step,), 0.9), torch.full((step,), -0.3))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(module: LightningModule, run_dir: Path) -> list[dict[str, str]]:
    ones = DataLoader(torch.ones(4, 1))
    trainer = Trainer(
        max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        val_check_interval=2, callbacks=[SimilarityHistogram(run_dir=str(run_dir))],
    )  # fmt: skip
    trainer.fit(module, ones, ones)
    with (run_dir / "similarities.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_validation_leaves_its_own_similarities_of_both_kinds(tmp_path):
    rows = train(Judge(), tmp_path)
    assert [(row["step"], row["kind"]) for row in rows] == [
        ("2", "matching"),
        ("2", "foreign"),
        ("4", "matching"),
        ("4", "foreign"),
    ]
    assert [row["0.90"] for row in rows] == ["2", "0", "4", "0"]
    assert [row["-0.30"] for row in rows] == ["0", "2", "0", "4"]


def test_every_possible_similarity_has_a_bin():
    row = histogram_row("matching", torch.linspace(-1, 1, 1001))
    assert len(row) == 1 + NUM_BINS
    assert sum(count for count in row.values() if isinstance(count, int)) == 1001
    assert list(row)[1::20] == ["-1.00", "0.00", "1.00"]


def test_a_module_without_similarities_is_refused(tmp_path):
    trainer = Trainer(accelerator="cpu", logger=False)
    with pytest.raises(
        BadConfig, match=r"got LightningModule; take it out of the callbacks \(~callbacks.similarity_histogram\)"
    ):
        SimilarityHistogram(run_dir=str(tmp_path)).setup(trainer, LightningModule(), "fit")
