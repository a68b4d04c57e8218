"""`python -m lipsync_lightning.train +experiment=stage2`: train a module."""

import logging
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.distributed import DistError

from lipsync_lightning.callbacks.stop_on_signal import StopOnSignal
from lipsync_lightning.cli import build
from lipsync_lightning.commands.dashboard import identify, identity
from lipsync_lightning.commands.forecast import fit_to, require_fitting
from lipsync_lightning.commands.resume import changed_settings, checkpoint_to_resume, in_a_line, is_finished, state_of
from lipsync_lightning.errors import BadConfig
from lipsync_lightning.files import owned, whole_file
from lipsync_lightning.models.lora import BASE, plain_network
from lipsync_lightning.modules.rebuilding import BUILT_OF
from lipsync_lightning.modules.weights import RUN_CONFIG, require_weights

_MEANT_SO = (  # what Lightning doubts
    ".*does not have many workers.*",
    ".*Found .* module.* in eval mode at the start of training.*",  # frozen networks
    ".*Experiment logs directory .* exists and is not empty.*",  # the log in it was moved aside
    ".*configure_optimizers` returned `None`.*",  # a closed-form fit
    ".*LeafSpec.* is deprecated.*",
    ".*Checkpoint directory .* exists and is not empty.*",  # of a run that is resumed
    ".*number of training batches .* smaller than the logging interval.*",  # steps are counted across epochs
    ".*your dataloader is not resumable.*",  # the datamodule is
    ".*Total length of `list` across ranks is zero.*",  # no held-out clips, as the datamodule says
)


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


def build_trainer(config: DictConfig, *more: Callback) -> Trainer:
    """Return the trainer with its callbacks and loggers. Raises: BadConfig, if it cannot run in a sweep."""
    callbacks, loggers = build(config.callbacks), build(config.logger)
    if not loggers:
        callbacks.pop("learning_rate", None)  # Lightning's monitor refuses to run without a logger
    if config.trainer.get("enable_progress_bar") is False:
        callbacks.pop("progress", None)  # nor does its bar
    callbacks = [each for each in callbacks.values() if each is not None]
    trainer: Any = build(config.trainer, callbacks=[*callbacks, *more], logger=list(loggers.values()))
    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    if in_sweep and trainer.world_size > 1 and isinstance(trainer.strategy.cluster_environment, LightningEnvironment):
        raise BadConfig(  # the processes of the first job would outlive it, and the second would hang
            f"the jobs of this sweep run in one process and cannot start {trainer.world_size} each; give "
            "trainer.devices=1, sweep on SLURM (docs/scaling.md), or run the jobs one by one without -m"
        )
    return trainer


class Begun(Callback):
    """Tells whether training has begun: until then whatever fails leaves a run's record as it was.

    Each checkpoint gets the module's configuration, from which `load_from_checkpoint` builds it.
    """

    def __init__(self, config: DictConfig) -> None:
        self.config, self.has = config, False
        self.built_of = OmegaConf.to_container(config.module, resolve=True)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[BUILT_OF] = self.built_of

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.has = True
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams(identity(self.config, cast(Any, trainer).datamodule.train_shards))


@contextmanager
def recorded(config: DictConfig, run_dir: Path) -> Iterator[Begun]:
    """Write down a run's configuration; a former one, and the log so far, get a number and stay beside it."""
    begun, aside = Begun(config), _record(config, run_dir) or {}
    try:
        yield begun
    finally:
        if not begun.has:
            _forget(run_dir, aside)


@rank_zero_only
def _record(config: DictConfig, run_dir: Path) -> dict[Path, Path]:
    aside = {}
    given: Any = OmegaConf.to_container(config)
    # `train --config-path <run_dir> --config-name config` runs it again.
    again = {"defaults": [{"override hydra/job_logging": "stdout"}, "_self_"]}
    where = {"hydra": {"run": {"dir": "${run_dir}"}, "output_subdir": None}}
    with whole_file(run_dir / RUN_CONFIG) as part:
        OmegaConf.save(OmegaConf.create({**again, **given, **where}), part)
        for path in (run_dir / RUN_CONFIG, run_dir / "metrics.csv"):  # Lightning's logger would delete the log
            if path.is_file():
                number = len(list(run_dir.glob(f"{path.stem}.*{path.suffix}")))
                aside[path] = path.replace(path.with_suffix(f".{number:03d}{path.suffix}"))
    return aside


@rank_zero_only
def _forget(run_dir: Path, aside: dict[Path, Path]) -> None:
    (run_dir / RUN_CONFIG).unlink()
    for path, kept in aside.items():
        kept.replace(path)


@contextmanager
def sentences_of_lightning() -> Iterator[None]:
    """Within, what Lightning itself refuses is a BadConfig."""
    try:
        yield
    except (MisconfigurationException, ValueError, TypeError) as error:
        raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
        if isinstance(error, MisconfigurationException) or "/lightning/" in raised_in:
            raise BadConfig(" ".join(str(error).split())) from error
        raise


def run(config: DictConfig) -> None:
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for message in _MEANT_SO:
        warnings.filterwarnings("ignore", message=message)
    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    # In a sweep, each job has its own.
    run_dir = Path(HydraConfig.get().runtime.output_dir if in_sweep else config.run_dir).absolute()
    with ExitStack() as stack:
        if config.trainer.get("fast_dev_run"):  # which leaves nothing
            if in_sweep and not any(run_dir.iterdir()):
                run_dir.rmdir()  # Hydra's
            run_dir = Path(stack.enter_context(TemporaryDirectory()))
        else:
            rank_zero_only(stack.enter_context)(owned(run_dir))
        config.run_dir = str(run_dir)
        train(config, run_dir)


def train(config: DictConfig, run_dir: Path) -> None:
    """Train, or go on, in a folder that no other process works in."""
    checkpoint = checkpoint_to_resume(config.ckpt_path, run_dir)
    if checkpoint is not None:
        if reached := is_finished(state_of(checkpoint), config, run_dir):
            rank_zero_only(print)(reached)
            return
        if changes := changed_settings(checkpoint, config):
            rank_zero_only(print)(f"{run_dir} goes on with other settings: {in_a_line(changes)}")
    identify(config, run_dir)
    if "profile" in config:
        rank_zero_only(print)(fit_to(config, config.profile))
    if "memory" in config:
        rank_zero_only(print)(require_fitting(config))
    init_from, which = config.init_from if checkpoint is None else None, config.checkpoint
    with_lora = OmegaConf.select(config, "module.lora.rank") is not None
    if with_lora and checkpoint is not None:
        init_from, which = str(checkpoint.parents[1] / BASE), "last"
    elif with_lora and init_from is None:
        raise BadConfig("module.lora stands beside weights that are there; name them by init_from=, such as an export")
    given = config.copy()  # building resolves what other keys say in place
    seed_everything(config.seed, workers=True, verbose=False)
    data = build(config.data)
    data.require_shards("train")  # before large networks are built
    if init_from is not None:
        require_weights(init_from, which)
        warn_if_target_differs(init_from, config)
    module = build(config.module)
    if unknown := [name for name in config.networks if not isinstance(getattr(module, name, None), nn.Module)]:
        there = [name for name, _ in module.named_children()]
        raise BadConfig(
            f"networks={config.networks}: the module has no {', '.join(unknown)}; it has {', '.join(there)}"
        )
    if init_from is not None:
        module.load_weights(init_from, which)
    if with_lora and checkpoint is None:
        rank_zero_only(lambda: plain_network(module.unet).save_pretrained(run_dir / BASE))()
    with sentences_of_lightning(), recorded(given, run_dir) as begun:
        trainer: Any = build_trainer(config, begun)
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
    if config.trainer.get("fast_dev_run"):
        rank_zero_only(print)("a dry run: all of it works, and nothing is kept")
        return
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
