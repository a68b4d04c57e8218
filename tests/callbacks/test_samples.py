import csv
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lipsync_lightning.callbacks.samples import Sample, SampleWriter, in_sync, put_rows
from lipsync_lightning.clip import ClipBatch, ClipSpec
from lipsync_lightning.losses.sync import SyncLoss
from lipsync_lightning.media.strips import read_png, strip_rows
from lipsync_lightning.media.video import probe
from small_training import fit


class Painter(LightningModule):
    """Paints the masked part by what it learned and by chance; learns with dropout, by global random numbers."""

    def __init__(self, clip: ClipSpec) -> None:
        super().__init__()
        self.clip = clip
        self.colour = nn.Parameter(torch.zeros(3, 1, 1))
        self.dropout = nn.Dropout(0.5)

    def generate(self, batch: ClipBatch) -> Tensor:
        keep = rearrange(batch["keep_mask"], "b 1 h w -> b 1 1 h w")
        painted = (self.colour + 0.1 * torch.randn_like(batch["frames"])).clamp(-1, 1)
        return batch["frames"] * keep + painted * (1 - keep)

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        return (self.dropout(batch["frames"]) - self.colour - torch.rand(1)).square().mean()

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        self.log("val/loss", self.colour.sum(), batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.colour], lr=0.1)


class RecordedTables(DummyLogger):
    """Stands in for wandb's logger."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[dict[str, Any]] = []

    def log_table(self, key: str, columns: list[str], data: list[list[Any]], step: int) -> None:
        self.tables.append({"key": key, "columns": columns, "data": data, "step": step})


@pytest.fixture
def judge(tiny_syncnet) -> SyncLoss:
    return SyncLoss(syncnet=tiny_syncnet, resolution=32)


@pytest.fixture
def train(make_clip_batch: Callable[[int], ClipBatch], tmp_path: Path):
    """A function that trains 4 steps, validates after 2 and 4, and returns the module and what was logged last."""
    torch.manual_seed(1)
    batches = [make_clip_batch(2) for _ in range(4)]
    heldout = [make_clip_batch(1) for _ in range(3)]
    for number, batch in enumerate(heldout):
        batch["id"] = [f"set/person {number}/0"]

    def run(module: LightningModule, *callbacks: SampleWriter, logger: Logger | bool = False) -> Trainer:
        torch.manual_seed(7)
        limits = {"max_steps": 4, "max_epochs": -1, "num_sanity_val_steps": 1, "val_check_interval": 2}
        loaders = [DataLoader(each, batch_size=None) for each in (batches, heldout)]  # pyright: ignore[reportArgumentType]
        logging = {"logger": logger, "log_every_n_steps": 1, "default_root_dir": tmp_path}
        return fit(module, loaders[0], *callbacks, val=loaders[1], **limits, **logging)

    return run


def table(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "samples" / "samples.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def strips(run_dir: Path, num_clips: int = 2, judge: SyncLoss | None = None) -> SampleWriter:
    return SampleWriter(run_dir=str(run_dir), num_clips=num_clips, judge=judge)


def test_training_and_random_numbers_are_the_same_to_the_bit_with_and_without(train, tiny_clip, judge, tmp_path):
    without, with_strips = Painter(tiny_clip), Painter(tiny_clip)
    train(without)
    state = torch.get_rng_state()
    train(with_strips, strips(tmp_path, judge=judge))
    assert torch.equal(with_strips.colour, without.colour)
    assert torch.equal(torch.get_rng_state(), state)


def test_clips_are_gathered_from_as_many_batches_as_it_takes_at_each_validation(train, tiny_clip, tmp_path):
    train(Painter(tiny_clip), strips(tmp_path))
    rows = table(tmp_path)
    assert [(row["step"], row["number"], row["id"]) for row in rows] == [
        (step, str(number), f"set/person {number}/0") for step in ("2", "4") for number in range(2)
    ]
    assert rows[0]["strip"] == "samples/step_000002/0.png"
    assert probe(tmp_path / rows[0]["video"]).width == 3 * tiny_clip.resolution
    assert len(list((tmp_path / "samples").rglob("*.*"))) == 9
    real, masked, generated = strip_rows(read_png(tmp_path / rows[0]["strip"]), 3)
    top, mouth = (slice(0, 4), slice(0, 4)), (slice(20, 24), slice(14, 18))
    np.testing.assert_array_equal(real[top], generated[top])
    np.testing.assert_array_equal(real[top], masked[top])
    assert (np.abs(masked[mouth].astype(int) - 128) <= 1).all()
    assert real[mouth].std() > 2 * generated[mouth].std() > 0


@pytest.mark.parametrize("whose", ["given", "the stage's own"])
def test_scores_come_from_the_judge_and_the_control_hears_the_next_clip(
    train, tiny_clip, judge, tmp_path, make_clip_batch, whose
):
    painter = Painter(tiny_clip)
    if whose != "given":
        painter.losses = nn.ModuleDict({"sync": judge})
    trainer = train(painter, strips(tmp_path, judge=judge if whose == "given" else None))
    rows = table(tmp_path)[2:]
    for name in ("sync_real", "sync_generated", "sync_control", "psnr_mouth"):
        values = [float(row[name]) for row in rows]
        assert float(trainer.callback_metrics[f"val/{name}"]) == pytest.approx(np.mean(values), rel=1e-5)
    assert all(row["sync_generated"] != row["sync_control"] for row in rows)
    batch = make_clip_batch(1)
    similarity = float(judge.similarity(batch["frames"], batch["mel"]))
    assert in_sync(judge, batch["frames"][0], batch["mel"][0]) == similarity
    judge.syncnet.calibrate(scale=1.0, bias=-similarity)
    assert in_sync(judge, batch["frames"][0], batch["mel"][0]) == 0.5


def test_without_any_judge_the_sync_columns_are_empty(train, tiny_clip, tmp_path):
    trainer = train(Painter(tiny_clip), strips(tmp_path))
    assert {row[name] for row in table(tmp_path) for name in ("sync_real", "sync_generated", "sync_control")} == {""}
    assert {name for name in trainer.callback_metrics if name.startswith("val/")} == {"val/loss", "val/psnr_mouth"}


def test_the_mouth_s_psnr_counts_only_made_pixels(make_clip_batch):
    batch = make_clip_batch(1)
    real, keep = batch["frames"][0], batch["keep_mask"][0]
    sample = Sample("a", real, real + 0.2 * (keep == 0), keep, batch["mel"][0])
    assert sample.psnr_mouth() == pytest.approx(20.0, abs=1e-3)  # 20 log10(2 / 0.2)


def test_rows_of_a_step_replace_those_of_it_and_of_later_ones(tmp_path):
    for step, value in ((2, "a"), (4, "b"), (6, "c"), (4, "d")):  # resumed before step 4
        put_rows(tmp_path / "deep" / "rows.csv", step, [{"value": value}, {"value": value}])
    assert (tmp_path / "deep" / "rows.csv").read_text().split() == ["step,value", "2,a", "2,a", "4,d", "4,d"]


def test_a_logger_of_tables_has_pictures_and_videos_with_their_scores(train, tiny_clip, judge, tmp_path, monkeypatch):
    wandb = SimpleNamespace(Image=lambda path: ("image", path), Video=lambda path, format: (format, path))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    logger = RecordedTables()
    train(Painter(tiny_clip), strips(tmp_path, judge=judge), logger=logger)
    assert [(each["key"], each["step"], len(each["data"])) for each in logger.tables] == [
        ("val/film_strips", step, 2) for step in (2, 4)
    ]
    row = dict(zip(logger.tables[1]["columns"], logger.tables[1]["data"][0], strict=True))
    expected = table(tmp_path)[2]
    assert row["strip"] == ("image", str(tmp_path / expected["strip"]))
    assert row["video"] == ("mp4", str(tmp_path / expected["video"]))
    assert row["sync_generated"] == float(expected["sync_generated"])


def test_other_ranks_write_nothing(tiny_clip, make_clip_batch, tmp_path):
    module, callback = Painter(tiny_clip), strips(tmp_path)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.strategy.__class__ = type("OfRankOne", (type(trainer.strategy),), {"is_global_zero": False})
    callback.on_validation_batch_end(trainer, module, None, make_clip_batch(2), 0)
    assert len(callback.samples) == 2
    callback.on_validation_epoch_end(trainer, module)
    assert not list(tmp_path.rglob("samples*"))
