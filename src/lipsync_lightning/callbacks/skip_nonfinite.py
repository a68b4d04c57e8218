"""Steps whose gradients are not finite change nothing, are counted, and do not go on for ever."""

import warnings
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from lipsync_lightning.errors import StepFailed

_NUM_NAMED = 8


class SkipNonfinite(Callback):
    """Drops gradients that are not finite, so that the optimizer leaves weights and its own state as they were.

    All ranks decide alike. A fused optimizer passes over such a step on the device, so that the host waits for none; it
    looks back and tells when the trainer logs. Logs `train/gradient_norm` (before clipping), `train/skipped_steps`.
    """

    def __init__(self, *, most_in_a_row: int) -> None:
        """Args: most_in_a_row: one more skipped step than this ends the run."""
        self.most_in_a_row = most_in_a_row
        self.in_a_row = 0
        self.skipped = 0
        self.ids: list[str] = []
        self.steps: list[tuple[str, Tensor]] = []  # which, and 1 if skipped: those not looked back at yet

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.ids = []
        self.ids += batch["id"]

    def on_before_optimizer_step(self, trainer: Any, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Raises: StepFailed, if too many steps in a row were skipped."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = get_total_norm(gradients) if gradients else torch.zeros((), device=pl_module.device)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        is_bad = 1 - norm.isfinite().float()
        if distributed.is_initialized():  # together: FSDP's ranks hold pieces of gradients
            distributed.all_reduce(is_bad, distributed.ReduceOp.MAX)
        if optimizer.defaults.get("fused"):
            optimizer.found_inf = is_bad  # pyright: ignore[reportAttributeAccessIssue]  # 1: torch's kernels change nothing
        elif bool(is_bad):
            optimizer.zero_grad(set_to_none=True)  # an optimizer passes over parameters without gradients
        clips = f"(clips {', '.join(self.ids[:_NUM_NAMED])} on rank {trainer.global_rank})"
        message = f"step {trainer.global_step}: the gradient is not finite, the step is skipped {clips}"
        self.steps.append((message, is_bad))
        pl_module.log("train/gradient_norm", norm)
        if (trainer.global_step + 1) % trainer.log_every_n_steps == 0:
            self.look_back()
            pl_module.log("train/skipped_steps", float(self.skipped))
            if self.in_a_row > self.most_in_a_row:
                way_out = "lower module.optimizer.lr, look at these clips, go on with ckpt_path=<an earlier checkpoint>"
                told = f"step {trainer.global_step}: {self.in_a_row} steps in a row had gradients that are not finite"
                raise StepFailed(f"{told}: {way_out}")

    def look_back(self) -> None:
        """Count and name the steps that were skipped."""
        steps, self.steps = self.steps, []
        flags = torch.stack([is_bad for _, is_bad in steps]).tolist() if steps else []
        for (message, _), is_bad in zip(steps, flags, strict=True):
            self.skipped += bool(is_bad)
            self.in_a_row = self.in_a_row + 1 if is_bad else 0
            if is_bad:
                warnings.warn(message, stacklevel=2)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.look_back()
        if self.in_a_row:
            told = f"the last {self.in_a_row} steps had gradients that are not finite; the networks may be of no use"
            warnings.warn(f"{told}; go on with ckpt_path=<an earlier checkpoint>", stacklevel=2)

    def state_dict(self) -> dict[str, Any]:
        self.look_back()
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.in_a_row = state_dict["skipped"], state_dict["in_a_row"]
