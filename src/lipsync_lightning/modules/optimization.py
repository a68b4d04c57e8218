"""What every module's `configure_optimizers` does."""

from collections.abc import Callable, Iterable
from typing import Any

from torch.nn import Parameter
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lipsync_lightning.errors import BadConfig

OptimizerFactory = Callable[[Iterable[Parameter]], Optimizer]
ScheduleFactory = Callable[[Optimizer], LRScheduler]


class FusedAdamW(AdamW):
    """AdamW in one kernel, gradients clipped by Lightning.

    Lightning refuses to clip for a fused AdamW, because in 16-bit training that unscales gradients itself, after clipping. Without that
    ability they are unscaled before, as for any other optimizer; in bf16 and float32 there is nothing to unscale.
    """

    def __init__(self, params: Iterable[Parameter], **options: Any) -> None:
        """Args: options: of `torch.optim.AdamW`."""
        super().__init__(params, fused=True, **options)
        self._step_supports_amp_scaling = False


def optimizer_with_schedule(
    parameters: Iterable[Parameter], optimizer: OptimizerFactory, schedule: ScheduleFactory
) -> dict[str, Any]:
    """Return Lightning's dict of an optimizer over the trainable parameters and a schedule that moves every step.

    Raises: BadConfig, for settings that the optimizer refuses.
    """
    try:
        made = optimizer([parameter for parameter in parameters if parameter.requires_grad])
    except ValueError as error:
        raise BadConfig(f"module.optimizer: {error}") from error
    return {"optimizer": made, "lr_scheduler": {"scheduler": schedule(made), "interval": "step"}}
