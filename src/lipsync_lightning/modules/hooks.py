"""What modules do alike in Lightning's hooks: the optimizer, the log of losses, checkpoints without frozen networks.

The functions of `self` become a module's hooks: `on_save_checkpoint = leave_out_frozen`.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, distributed, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadConfig, WrongWeights
from lipsync_lightning.models.weights_io import require_match

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
ScheduleFactory = Callable[[Optimizer], LRScheduler]


class FusedAdamW(AdamW):
    """AdamW in one kernel, gradients clipped by Lightning.

    Lightning refuses to clip for a fused AdamW, because in 16-bit training that unscales gradients itself, after
    clipping. Without that ability they are unscaled before, as for any other optimizer.
    """

    def __init__(self, params: Iterable[nn.Parameter], **options: Any) -> None:
        """Args: options: of `torch.optim.AdamW`."""
        super().__init__(params, fused=True, **options)
        self._step_supports_amp_scaling = False


published_adamw = partial(FusedAdamW, lr=1e-5)


def adamw_8bit(params: Iterable[nn.Parameter], **options: Any) -> Optimizer:
    """Return AdamW whose moments take a byte each (arXiv 2110.02861); those of small parameters stay in float32.

    Args: options: of bitsandbytes' `AdamW8bit`.
    Raises: BadConfig, where bitsandbytes is missing.
    """
    try:
        from bitsandbytes.optim import AdamW8bit  # optional  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        way_out = "get it with: pip install 'lipsync-lightning[8bit]'"
        raise BadConfig(f"optimization@module.optimizer=adamw_8bit needs bitsandbytes; {way_out}") from error
    return AdamW8bit(params, **options)


def optimizer_with_schedule(module: Any, network: nn.Module) -> dict[str, Any]:
    """Return Lightning's dict of a module's optimizer, over what of a network trains, and its schedule, step by step.

    A schedule that wants the number of steps where `trainer.max_steps` says none gets that of `trainer.max_epochs`.
    Raises: BadConfig, for settings that the optimizer refuses.
    """
    try:
        made = module.optimizer([parameter for parameter in network.parameters() if parameter.requires_grad])
    except ValueError as error:
        raise BadConfig(f"module.optimizer: {error}") from error
    given = getattr(module.schedule, "keywords", {})
    is_open = given.get("num_training_steps", 0) < 0
    steps = {"num_training_steps": module.trainer.estimated_stepping_batches} if is_open else {}
    return {"optimizer": made, "lr_scheduler": {"scheduler": module.schedule(made, **steps), "interval": "step"}}


def log_losses(
    module: LightningModule, split: str, losses: tuple[Tensor, dict[str, Tensor]], batch: Mapping[str, Any]
) -> Tensor:
    """Log total and terms as `<split>/loss` and `<split>/loss_<term>`, averaged over ranks; return the total.

    In training ranks average when the trainer logs, all values in one reduction: between, none waits for another.
    """
    total, terms = losses
    names = [f"{split}/loss", *(f"{split}/loss_{name}" for name in terms)]
    values = torch.stack([value.detach().float() for value in (total, *terms.values())])
    if split == "train" and distributed.is_initialized():
        trainer: Any = module.trainer
        if (trainer.global_step + 1) % trainer.log_every_n_steps:
            return total
        values = trainer.strategy.reduce(values, reduce_op="mean")
    logged = dict(zip(names, values.unbind(), strict=True))
    if split == "val":
        log_validation(module, logged, batch)
    else:
        module.log_dict(logged, batch_size=len(batch["seed"]))
    return total


def log_validation(module: LightningModule, figures: Mapping[str, Tensor], batch: Mapping[str, Any]) -> None:
    """Log figures of a validation batch, averaged over ranks, and again as `<name>/<set>` if there are several sets."""
    num_clips = next(len(value) for value in batch.values())
    of_set = {f"{name}/{batch['set'][0]}": value for name, value in figures.items() if "set" in batch}
    module.log_dict({**figures, **of_set}, batch_size=num_clips, sync_dist=True)


def leave_out_frozen(self: Any, checkpoint: dict[str, Any]) -> None:
    """Drop the weights of the module's `frozen_parts` (attribute names) from a checkpoint and note its `clip`."""
    prefixes = tuple(f"{part}." for part in self.frozen_parts)
    checkpoint["state_dict"] = {n: t for n, t in checkpoint["state_dict"].items() if not n.startswith(prefixes)}
    checkpoint["clip"] = self.clip.as_dict()


def put_back_frozen(self: Any, checkpoint: dict[str, Any]) -> None:
    """Fill the frozen weights back in from the module itself, so that loading can be strict.

    Raises: WrongWeights, if the checkpoint is not of one of our runs; ClipMismatch, if it was trained for other clips.
    """
    if "clip" not in checkpoint:
        raise WrongWeights("ckpt_path is not a checkpoint of this library; give one from a run's checkpoints folder")
    ClipSpec.from_dict(checkpoint["clip"], "the checkpoint").require_equal(self.clip, "the checkpoint", "this run")
    prefixes = tuple(f"{part}." for part in self.frozen_parts)
    own = self.state_dict()
    checkpoint["state_dict"] |= {n: t for n, t in own.items() if n.startswith(prefixes)}
    require_match(own, checkpoint["state_dict"], "this run, which goes on from a checkpoint of another configuration")
