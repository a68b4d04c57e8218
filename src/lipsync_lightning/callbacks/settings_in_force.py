"""A resumed run trains with the settings of its command, not with those its checkpoint was written with."""

from lightning import Callback, LightningModule, Trainer
from torch.optim.lr_scheduler import LambdaLR


class SettingsInForce(Callback):
    """Puts the optimizer's settings and the schedule as they are configured in place of what a checkpoint restores.

    The schedule goes on at its step: one that is stretched to more steps has the rate at once that it has there.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                rate = group["lr"]
                group |= {key: value for key, value in optimizer.defaults.items() if key in group}
                group["lr"] = rate if "initial_lr" in group else group["lr"]
        for config in trainer.lr_scheduler_configs:
            schedule, optimizer = config.scheduler, config.scheduler.optimizer
            if not isinstance(schedule, LambdaLR):
                continue
            schedule.base_lrs = [optimizer.defaults["lr"]] * len(optimizer.param_groups)
            rates = [
                base * factor(schedule.last_epoch)
                for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
            ]
            for group, base, rate in zip(optimizer.param_groups, schedule.base_lrs, rates, strict=True):
                group["initial_lr"], group["lr"] = base, rate
            schedule._last_lr = rates
