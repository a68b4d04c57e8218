"""`python -m lipsync_lightning.train +experiment=stage2`: train a module."""

import functools
import logging
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from lightning import Trainer, seed_everything
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch.distributed import DistError

from lipsync_lightning.callbacks.stop_cleanly import StopCleanly
from lipsync_lightning.cli import build, entry_point, one_sentence
from lipsync_lightning.errors import BadConfig, LipSyncError, WouldOverwrite
from lipsync_lightning.modules.weights import (
    RUN_CONFIG,
    newest_checkpoint,
    newest_readable_checkpoint,
    require_weights,
    save_networks,
)


def checkpoint_to_resume(ckpt_path: str | None, run_dir: Path) -> Path | None:
    """Return the checkpoint a run continues from, or None for a new run.

    Raises:
        BadConfig: `ckpt_path` is neither `last` nor a file.
        WouldOverwrite: a new run would write among the checkpoints of a former one.
    """
    newest = newest_checkpoint(run_dir)
    if ckpt_path == "last":
        return newest_readable_checkpoint(run_dir)
    if ckpt_path is not None:
        if not Path(ckpt_path).is_file():
            raise BadConfig(f"ckpt_path={ckpt_path} is not a file; give a checkpoint of this run, or ckpt_path=last")
        return Path(ckpt_path)
    if newest is not None:
        raise WouldOverwrite(
            f"{run_dir} already holds a run ({newest.name}); continue it with ckpt_path=last, or choose another run_dir="
        )
    return None


def quieten_lightning() -> None:
    """Keep Lightning's advertisements, and its doubts about what is meant here, out of the log."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # the YAML says how many
        ".*Found .* module.* in eval mode at the start of training.*",  # frozen networks are
        ".*Experiment logs directory .* exists and is not empty.*",  # the log in it was moved aside
        ".*configure_optimizers` returned `None`.*",  # the closed-form fit
        ".*LeafSpec.* is deprecated.*",
        ".*Checkpoint directory .* exists and is not empty.*",  # of a run that is resumed
    ):
        warnings.filterwarnings("ignore", message=message)


def require_whole_callbacks(callbacks: DictConfig) -> None:
    """Raises: BadConfig, for settings of a callback that `callbacks=` has replaced by another."""
    lost = [str(name) for name, callback in callbacks.items() if callback is not None and "_target_" not in callback]
    if lost:
        raise BadConfig(
            f"callbacks.{lost[0]} has settings here but is no longer there, because `callbacks=` chooses which there are; name the group "
            "that has it too, such as 'callbacks=[syncnet,ema]' or 'callbacks=[film_strips,ema]', or drop its settings by "
            f"'~callbacks.{lost[0]}'"
        )


def told_of_another_target(init_from: str, config: DictConfig) -> str | None:
    """Return what to say where a run starts from one that was trained to predict something else, or by another noise schedule."""
    former = Path(init_from) / RUN_CONFIG
    if "scheduler" not in config.module or not former.is_file():
        return None
    before = OmegaConf.select(OmegaConf.load(former), "module.scheduler") or {}
    differing = [key for key, value in config.module.scheduler.items() if key in before and before[key] != value]
    if not differing:
        return None
    changes = ", ".join(f"{key} {before[key]} there, {config.module.scheduler[key]} here" for key in differing)
    return f"init_from={init_from} was trained with another module.scheduler ({changes}): unless that is meant, give both stages the same"


def leave_if_stopped(trainer: Trainer) -> None:
    """End the process where a signal ended the training: with status 0 after SIGTERM and SIGUSR1, as schedulers expect, else 130."""
    stopped_by = next(
        (callback.stopped_by for callback in trainer.callbacks if isinstance(callback, StopCleanly)), None
    )  # pyright: ignore[reportAttributeAccessIssue]
    if stopped_by is not None:
        if trainer.is_global_zero:
            print(
                f"stopped by {stopped_by.name} after step {trainer.global_step}; the same command with ckpt_path=last goes on"
            )
        raise SystemExit(128 + stopped_by if stopped_by == signal.SIGINT else 0)


@rank_zero_only
def keep_former_log(run_dir: Path) -> None:
    """Move the log of the part of a run that is now resumed aside, because Lightning's logger deletes what it finds."""
    log = run_dir / "metrics.csv"
    if log.is_file():
        log.rename(run_dir / f"metrics.{len(list(run_dir.glob('metrics.*.csv'))):03d}.csv")


def require_processes_of_its_own(trainer: Trainer) -> None:
    """Raises: BadConfig, in a sweep whose jobs would start further processes: those of the first outlive it, and the second hangs."""
    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    if in_sweep and trainer.world_size > 1 and isinstance(trainer.strategy.cluster_environment, LightningEnvironment):  # pyright: ignore[reportAttributeAccessIssue]
        raise BadConfig(
            f"the jobs of this sweep run in one process and cannot start {trainer.world_size} each; give trainer.devices=1, sweep on SLURM "
            "(docs/scaling.md), or run the jobs one by one without -m"
        )


def close_dashboards(trainer: Trainer) -> None:
    """End the wandb run, because the next job of a sweep would go on writing into one that is open."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


def sparing_other_jobs(job: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Let a sweep go on after a job that fails: Hydra notes an exception and ends with status 1 after the last job.

    A function, and no context manager, because launchers pickle the job.
    """

    @functools.wraps(job)
    def spared(config: DictConfig) -> None:
        try:
            job(config)
        except (LipSyncError, InstantiationException, OmegaConfBaseException, OSError) as error:
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                raise
            sentence = f"error: {one_sentence(error)}"
            print(sentence, file=sys.stderr, flush=True)
            raise HydraException(sentence) from error

    return spared


@contextmanager
def told_when_another_rank_is_gone() -> Iterator[None]:
    """End the process with one sentence where its collective fails because another process, which has said why, is no more."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, DistError) or "gloo/transport" in str(error)):
            raise
        print("error: another process of this run has ended; its own message says why", file=sys.stderr, flush=True)
        raise SystemExit(1) from error


@entry_point("train")
@sparing_other_jobs
def main(config: DictConfig) -> None:
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    config.run_dir = str(run_dir)  # in a sweep, every job's own folder
    checkpoint = checkpoint_to_resume(config.ckpt_path, run_dir)
    quieten_lightning()
    seed_everything(config.seed, workers=True, verbose=False)
    require_whole_callbacks(config.callbacks)
    data = build(config.data)
    data.require_shards("train")  # before weights are loaded and GPUs are taken
    if config.init_from is not None and checkpoint is None:
        require_weights(config.init_from)  # before a large network is built
        told = told_of_another_target(config.init_from, config)
        if told:
            rank_zero_warn(told)
    OmegaConf.save(config, run_dir / RUN_CONFIG)
    keep_former_log(run_dir)
    module = build(config.module)
    if config.init_from is not None and checkpoint is None:
        module.load_weights(config.init_from)
    callbacks, loggers = build(config.callbacks), build(config.logger)
    if not loggers:
        callbacks.pop("learning_rate", None)  # Lightning's monitor refuses to run without a logger
    trainer = build(config.trainer, callbacks=list(callbacks.values()), logger=list(loggers.values()))
    require_processes_of_its_own(trainer)
    if trainer.accumulate_grad_batches < 1:
        raise BadConfig(
            f"trainer.accumulate_grad_batches={trainer.accumulate_grad_batches}: give the batches of a step, 1 or more"
        )
    try:
        with told_when_another_rank_is_gone():
            trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    finally:
        close_dashboards(trainer)
    leave_if_stopped(trainer)
    if trainer.is_global_zero:
        save_networks(module, run_dir, config.networks)
        print(f"trained networks: {', '.join(str(run_dir / name) for name in config.networks)}")


if __name__ == "__main__":
    main()
