"""Steps whose gradients are not finite change nothing, are counted, and do not go on for ever."""

import warnings
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from lipsync_lightning.errors import StepFailed

_NUM_NAMED = 8


class SkipNonfinite(Callback):
    """Drops gradients that are not finite, so that the optimizer leaves weights and its own state as they were.

    Logs `train/gradient_norm` (before clipping) and `train/skipped_steps`. All ranks decide alike.
    """

    def __init__(self, *, most_in_a_row: int) -> None:
        """Args: most_in_a_row: one more skipped step than this ends the run."""
        self.most_in_a_row = most_in_a_row
        self.in_a_row = 0
        self.skipped = 0
        self.ids: list[str] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.ids = []
        self.ids += batch["id"]

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Raises: StepFailed, if too many steps in a row were skipped."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = get_total_norm(gradients) if gradients else torch.zeros(())
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        # Ranks decide together: FSDP's hold pieces of gradients.
        if trainer.strategy.reduce_boolean_decision(bool(norm.isfinite()), all=True):
            self.in_a_row = 0
            pl_module.log("train/gradient_norm", norm)
        else:
            optimizer.zero_grad(set_to_none=True)  # an optimizer passes over parameters without gradients
            self.skipped += 1
            self.in_a_row += 1
            where = f"(clips {', '.join(self.ids[:_NUM_NAMED])} on rank {trainer.global_rank})"
            message = f"step {trainer.global_step}: the gradient is not finite, the step is skipped {where}"
            if self.in_a_row > self.most_in_a_row:
                way_out = "lower module.optimizer.lr, look at these clips, go on with ckpt_path=<an earlier checkpoint>"
                raise StepFailed(f"{message}; {self.in_a_row} such steps in a row: {way_out}")
            warnings.warn(message, stacklevel=2)
        pl_module.log("train/skipped_steps", float(self.skipped))

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.in_a_row = state_dict["skipped"], state_dict["in_a_row"]
