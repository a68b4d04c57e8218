"""Random numbers that are a step's own, on every rank, whatever came before."""

from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer


class SeedSteps(Callback):
    """Reseeds torch before every batch: no two ranks drop the same units, and a resumed run draws as if never stopped.

    Noise and timesteps do not depend on this: each window brings a seed of its own.
    """

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        within_step = batch_idx % trainer.accumulate_grad_batches
        own = np.random.SeedSequence([self.seed, trainer.global_rank, trainer.global_step, within_step])
        torch.manual_seed(int(own.generate_state(1, np.uint64)[0]))
