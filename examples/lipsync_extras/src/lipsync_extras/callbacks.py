"""Two callbacks: how hard attention is pulled at, and a metric of what validation generates."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from lipsync_extras.metrics import MouthSharpness


class AttentionGradientNorm(Callback):
    """Logs `vitals/attention_gradient_norm`, before clipping: where it vanishes, the U-Net learns from no sound."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if (trainer.global_step + 1) % trainer.log_every_n_steps == 0:  # pyright: ignore[reportAttributeAccessIssue]
            named = pl_module.named_parameters()
            gradients = [each.grad for name, each in named if "attn" in name and each.grad is not None]
            pl_module.log("vitals/attention_gradient_norm", torch.nn.utils.get_total_norm(gradients))


class SharpnessLog(Callback):
    """Generates the first held-out batches and logs `val/mouth_sharpness`; training stays the same to the bit."""

    def __init__(self, *, num_batches: int) -> None:
        self.num_batches, self.sharpness = num_batches, MouthSharpness()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx < self.num_batches:
            with isolate_rng():
                generated = pl_module.generate(batch)
            self.sharpness.to(generated.device).update(generated, batch["frames"], batch["keep_mask"])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("val/mouth_sharpness", self.sharpness.compute())
        self.sharpness.reset()
