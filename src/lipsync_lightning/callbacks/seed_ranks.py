"""Random numbers of a run that are its own on every rank, and new after every resume."""

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer


class SeedRanks(Callback):
    """Reseeds torch when training begins, so that no two ranks draw the same noise and a resumed run does not repeat its draws."""

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        own = np.random.SeedSequence([self.seed, trainer.global_rank, trainer.global_step])
        torch.manual_seed(int(own.generate_state(1, np.uint64)[0]))
