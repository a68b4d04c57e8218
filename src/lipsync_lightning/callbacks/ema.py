"""Weights averaged over steps, without a second copy of what never changes."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging


class TrainedWeightsEMA(EMAWeightAveraging):
    """Lightning's exponential moving average, but a module's `frozen_parts` are shared and not saved twice.

    The decay of update n is min(decay, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage, so that the
    average of a short run is not its first weights. Validation, the networks saved at the end and the `state_dict` of
    checkpoints, hence exports and `init_from`, are the averaged weights.
    """

    def __init__(self, *, decay: float, update_every_n_steps: int) -> None:
        super().__init__(decay=decay, update_every_n_steps=update_every_n_steps, use_buffers=False)
        self.decay = decay
        self.ended = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Average what trains in one kernel. Lightning's own takes nine for each tensor and waits for the device."""
        step = trainer.global_step
        if step <= self._latest_update_step or not self.should_update(step_idx=step - 1):
            return
        assert self._average_model is not None
        self._latest_update_step = step
        pairs = zip(self._average_model.module.parameters(), pl_module.parameters(), strict=True)
        averages, currents = zip(
            *((average.data, own.data) for average, own in pairs if own.requires_grad), strict=True
        )
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates)) if self.num_updates else 0.0
        foreach: Any = torch._foreach_lerp_  # pyright: ignore[reportPrivateImportUsage]
        foreach(averages, currents, 1 - decay)  # the first update copies
        for average, own in zip(self._average_model.module.buffers(), pl_module.buffers(), strict=True):
            average.copy_(own)
        self.num_updates += 1
        self._average_model.n_averaged += 1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        parts = [
            part for part in getattr(pl_module, "frozen_parts", ()) if getattr(pl_module, part, pl_module) is not None
        ]
        self.frozen = tuple(f"{part}." for part in parts)
        self.num_updates = 0  # as the average itself counts, but on the host
        if self._average_model is not None:
            for part in parts:
                self._average_model.module.set_submodule(part, pl_module.get_submodule(part))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._average_model is not None
        self._average_model.to(pl_module.device)  # it was copied before the module was moved there
        self.ended = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the module with the average. Lightning's own loses the current weights, which a stopped run needs."""
        self._swap_models(pl_module)
        self.ended = True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        average = checkpoint["state_dict"]
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if "current_model_state" in checkpoint:
            if self.ended:
                checkpoint["current_model_state"], checkpoint["state_dict"] = checkpoint["state_dict"], average
            current = checkpoint["current_model_state"].items()
            checkpoint["current_model_state"] = {n: t for n, t in current if not n.startswith(self.frozen)}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if "current_model_state" in checkpoint:
            own = pl_module.state_dict().items()
            checkpoint["current_model_state"] |= {n: t for n, t in own if n.startswith(self.frozen)}
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        if self._average_model is not None:
            self.num_updates = int(self._average_model.n_averaged)
