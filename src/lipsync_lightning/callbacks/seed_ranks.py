"""Random numbers of a run that are its own on every rank, and new after every resume."""

import torch
from lightning import Callback, LightningModule, Trainer


class SeedRanks(Callback):
    """Reseeds torch when training begins, so that no two ranks draw the same noise and a resumed run does not repeat its draws."""

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Seeds far apart, because generators seeded alike are not: a rank's steps never reach the next rank's seed.
        torch.manual_seed((self.seed * 1_000_003 + trainer.global_rank) * 100_000_007 + trainer.global_step)
