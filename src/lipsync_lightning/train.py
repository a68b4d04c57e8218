"""`python -m lipsync_lightning.train +experiment=stage2`: train a module."""

import functools
import logging
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, InstantiationException
from hydra.types import RunMode
from lightning import Trainer, seed_everything
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch.distributed import DistError

from lipsync_lightning.callbacks.stop_on_signal import StopOnSignal
from lipsync_lightning.cli import build, entry_point, one_sentence
from lipsync_lightning.errors import BadConfig, LipSyncError, WouldOverwrite
from lipsync_lightning.forecast import fit_to, require_fitting
from lipsync_lightning.models.lora import BASE, plain_network
from lipsync_lightning.models.weights_io import read_file
from lipsync_lightning.modules.weights import RUN_CONFIG, newest_checkpoint, newest_readable_checkpoint, require_weights

_MEANT_SO = (  # what Lightning doubts
    ".*does not have many workers.*",
    ".*Found .* module.* in eval mode at the start of training.*",  # frozen networks
    ".*Experiment logs directory .* exists and is not empty.*",  # the log in it was moved aside
    ".*configure_optimizers` returned `None`.*",  # a closed-form fit
    ".*LeafSpec.* is deprecated.*",
    ".*Checkpoint directory .* exists and is not empty.*",  # of a run that is resumed
    ".*number of training batches .* smaller than the logging interval.*",  # steps are counted across epochs
    ".*your dataloader is not resumable.*",  # the datamodule is
)


def checkpoint_to_resume(ckpt_path: str | None, run_dir: Path) -> Path | None:
    """Return the checkpoint a run continues from, or None for a new run.

    Raises: BadConfig, if `ckpt_path` is neither `last` nor a file; WouldOverwrite, if a new run would write among the
        checkpoints of a former one.
    """
    if ckpt_path == "last":
        return newest_readable_checkpoint(run_dir)
    if ckpt_path is not None:
        if not Path(ckpt_path).is_file():
            raise BadConfig(f"ckpt_path={ckpt_path} is not a file; give a checkpoint of this run, or ckpt_path=last")
        return Path(ckpt_path)
    if newest := newest_checkpoint(run_dir):
        way_out = "continue it with ckpt_path=last, or choose another run_dir="
        raise WouldOverwrite(f"{run_dir} already holds a run ({newest.name}); {way_out}")
    return None


def warn_if_target_differs(init_from: str, config: DictConfig) -> None:
    """Warn where a run starts from one that learned to predict something else, or with another noise schedule."""
    former = Path(init_from) / RUN_CONFIG
    before = OmegaConf.select(OmegaConf.load(former), "module.scheduler") if former.is_file() else {}
    here = config.module.get("scheduler") or {}
    changed = [key for key in here if key in (before or {}) and before[key] != here[key]]
    if changed:
        changes = ", ".join(f"{key} {before[key]} there, {here[key]} here" for key in changed)
        told = f"init_from={init_from} was trained with another module.scheduler ({changes})"
        rank_zero_warn(f"{told}: unless that is meant, give both stages the same")


def require_servable(config: DictConfig) -> None:
    """Raises: BadConfig, for settings that exclude each other, before anything is built."""
    precision, every = config.trainer.precision, config.trainer.log_every_n_steps
    if precision in ("bf16-true", "16-true"):
        keep = "weights and the noise schedule have no room in half precision"
        raise BadConfig(f"trainer.precision={precision}: {keep}; give bf16-mixed, 16-mixed or 32-true")
    if not every:
        raise BadConfig("trainer.log_every_n_steps=0: skipped steps are told when the trainer logs; give 1 or more")
    in_float32 = OmegaConf.select(config, "module.lora.rank") is not None and str(precision).startswith("32")
    dtypes = ("float32",) if in_float32 else ("float32", "bfloat16", "float16")
    if config.module.get("frozen_dtype", "float32") not in dtypes:
        told = f"module.frozen_dtype={config.module.frozen_dtype} with trainer.precision={precision}"
        raise BadConfig(f"{told}: give {' or '.join(dtypes)}")
    for name, callback in config.callbacks.items():
        if callback is not None and "_target_" not in callback:
            groups = "such as 'callbacks=[syncnet,ema]' or 'callbacks=[film_strips,ema]'"
            raise BadConfig(
                f"callbacks.{name} has settings, but none of the groups that `callbacks=` names has it; name one that "
                f"has it too, {groups}, or drop its settings: '~callbacks.{name}'"
            )


def build_trainer(config: DictConfig) -> Trainer:
    """Return the trainer with its callbacks and loggers. Raises: BadConfig, if it cannot run in a sweep."""
    callbacks, loggers = build(config.callbacks), build(config.logger)
    if not loggers:
        callbacks.pop("learning_rate", None)  # Lightning's monitor refuses to run without a logger
    if config.trainer.get("enable_progress_bar") is False:
        callbacks.pop("progress", None)  # nor does its bar
    trainer: Any = build(config.trainer, callbacks=list(callbacks.values()), logger=list(loggers.values()))
    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    if in_sweep and trainer.world_size > 1 and isinstance(trainer.strategy.cluster_environment, LightningEnvironment):
        raise BadConfig(  # the processes of the first job would outlive it, and the second would hang
            f"the jobs of this sweep run in one process and cannot start {trainer.world_size} each; give "
            "trainer.devices=1, sweep on SLURM (docs/scaling.md), or run the jobs one by one without -m"
        )
    return trainer


def continue_sweep_after_failure(job: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Let a sweep go on after a job that fails: Hydra notes its exception and ends with status 1 after the last job."""

    @functools.wraps(job)  # and no context manager, because launchers pickle the job
    def one_of_a_sweep(config: DictConfig) -> None:
        try:
            job(config)
        except (LipSyncError, InstantiationException, OmegaConfBaseException, OSError) as error:
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                raise
            sentence = f"error: {one_sentence(error)}"
            print(sentence, file=sys.stderr, flush=True)
            raise CompactHydraException(sentence) from error

    return one_of_a_sweep


@entry_point("train")
@continue_sweep_after_failure
def main(config: DictConfig) -> None:
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    config.run_dir = str(run_dir)  # in a sweep, every job's own folder
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for message in _MEANT_SO:
        warnings.filterwarnings("ignore", message=message)
    checkpoint = checkpoint_to_resume(config.ckpt_path, run_dir)
    if checkpoint is not None and 0 <= config.trainer.max_steps <= (
        step := read_file(checkpoint).get("global_step", -1)
    ):
        reached = f"{run_dir} is at step {step} of trainer.max_steps={config.trainer.max_steps}; give more to go on"
        if not all((run_dir / name).is_dir() for name in config.networks):
            raise BadConfig(f"{reached} and to save its networks, which were not saved")
        rank_zero_only(print)(reached)
        return
    require_servable(config)
    if "profile" in config:
        rank_zero_only(print)(fit_to(config, config.profile))
    if config.get("memory", "forecast") != "forecast":
        raise BadConfig(f"memory={config.memory}: +memory=forecast says what a step needs; nothing else is known")
    if "memory" in config:
        rank_zero_only(print)(require_fitting(config))
    init_from = config.init_from if checkpoint is None else None
    with_lora = OmegaConf.select(config, "module.lora.rank") is not None
    if with_lora and checkpoint is not None:
        init_from = str(checkpoint.parents[1] / BASE)
    elif with_lora and init_from is None:
        raise BadConfig("module.lora stands beside weights that are there; name them by init_from=, such as an export")
    seed_everything(config.seed, workers=True, verbose=False)
    data = build(config.data)
    data.require_shards("train")  # before large networks are built
    if init_from is not None:
        require_weights(init_from)
        warn_if_target_differs(init_from, config)
    OmegaConf.save(config, run_dir / RUN_CONFIG)
    log = run_dir / "metrics.csv"  # of the part before a resumed one; Lightning's logger deletes what it finds
    if log.is_file():
        rank_zero_only(log.rename)(run_dir / f"metrics.{len(list(run_dir.glob('metrics.*.csv'))):03d}.csv")
    module = build(config.module)
    if init_from is not None:
        module.load_weights(init_from)
    if with_lora and checkpoint is None:
        rank_zero_only(lambda: plain_network(module.unet).save_pretrained(run_dir / BASE))()
    trainer: Any = build_trainer(config)
    try:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    except RuntimeError as error:
        if not (isinstance(error, DistError) or "gloo/transport" in str(error)):
            raise
        print("error: another process of this run has ended; its own message says why", file=sys.stderr, flush=True)
        raise SystemExit(1) from error
    finally:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):  # or the next job of a sweep would go on writing into this run
                logger.experiment.finish()
    networks = {name: plain_network(getattr(module, name)) for name in config.networks}  # on all ranks
    if trainer.is_global_zero:
        for name, network in networks.items():
            network.save_pretrained(run_dir / name)
        print(f"trained networks: {', '.join(str(run_dir / name) for name in config.networks)}")
    stopped_by = next((each.stopped_by for each in trainer.callbacks if isinstance(each, StopOnSignal)), None)
    if stopped_by is not None:  # status 0 after SIGTERM and SIGUSR1, as schedulers expect
        if trainer.is_global_zero:
            after = f"stopped by {stopped_by.name} after step {trainer.global_step}"
            print(f"{after}; the same command with ckpt_path=last goes on")
        raise SystemExit(128 + stopped_by if stopped_by == signal.SIGINT else 0)


if __name__ == "__main__":
    main()
