"""What every module's `configure_optimizers` does."""

from collections.abc import Callable, Iterable
from typing import Any

from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

OptimizerFactory = Callable[[Iterable[Parameter]], Optimizer]
ScheduleFactory = Callable[[Optimizer], LRScheduler]


def optimizer_with_schedule(parameters: Iterable[Parameter], optimizer: OptimizerFactory, schedule: ScheduleFactory) -> dict[str, Any]:
    """Return Lightning's dict of an optimizer over the trainable parameters and a schedule that moves every step."""
    made = optimizer([parameter for parameter in parameters if parameter.requires_grad])
    return {"optimizer": made, "lr_scheduler": {"scheduler": schedule(made), "interval": "step"}}
