"""Trainings in processes of their own, with the arguments of the command line, on shards that take a second to make.

The processes are forked from one that has imported everything, because imports take longer than these trainings.
"""

import csv
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.models.autoencoder import PatchMoments, RefinedAutoencoder
from lipsync_lightning.modules.weights import checkpoints_of, newest_checkpoint
from lipsync_lightning.train import main
from tiny_shards import write_real_shards

CLIP = ClipSpec(num_frames=16, fps=25, resolution=64, sample_rate_hz=16000, mel_hz=80, num_mels=80)
TIMEOUT_S = 60
_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(
    [
        "train_process",
        *(f"lipsync_lightning.{name}" for name in ("data.datamodule", "modules.syncnet", "modules.sharding")),
    ]
)


def small_shards(folder: Path) -> Path:
    """Three clips to train with and one held out, for `demo/syncnet`."""
    write_real_shards(folder / "shards", "train", [[44, 45], [46]], CLIP)
    return write_real_shards(folder / "shards", "heldout", [[47]], CLIP)


def arguments(shards: Path, run_dir: Path, *more: str) -> list[str]:
    given = ["+experiment=demo/syncnet", f"data.shards={shards}", f"run_dir={run_dir}", "logger=csv"]
    given += ["data.num_workers=0", "data.batch_size=2", "trainer.val_check_interval=null"]
    return [*given, "trainer.log_every_n_steps=1", *more]


def unet_arguments(shards: Path, run_dir: Path, *more: str) -> list[str]:
    """Those of `demo/stage1` with a small U-Net, and an autoencoder that is fitted to noise."""
    folder = shards.parent / "autoencoder"
    if not folder.is_dir():
        torch.manual_seed(0)
        moments = PatchMoments(patch=4)
        autoencoder = RefinedAutoencoder(patch=4, latent_channels=12, width=8, num_blocks=1)
        moments.update(torch.rand(8, 3, CLIP.resolution, CLIP.resolution) * 2 - 1)
        autoencoder.fit_from_moments(moments.count, moments.total, moments.outer)
        autoencoder.save_pretrained(folder)
    given = ["module.unet.block_out_channels=[16,16,16]", f"module.autoencoder.path={folder}", "callbacks=default"]
    given += ["module.optimizer.lr=1.0e-3"]
    given += [] if any("@module.schedule=" in each for each in more) else ["optimization@module.schedule=constant"]
    return ["+experiment=demo/stage1", *arguments(shards, run_dir, *given, *more)[1:]]


class TrainProcess:
    """One running training, the first of a process group of its own."""

    def __init__(
        self,
        arguments: list[str],
        output: Path,
        environment: dict[str, str] | None = None,
        *,
        importable: Path | None = None,
    ) -> None:
        """Args: importable: a folder of packages."""
        self.output = output
        self.process = _FORKED.Process(target=_train, args=(arguments, output, environment or {}, importable))
        self.process.start()
        self.pid = self.process.pid or 0

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait until something is so. Raises: AssertionError, if the process ends before."""
        deadline = time.monotonic() + TIMEOUT_S
        while not happened():
            assert self.process.is_alive(), self.output.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def send_to_group(self, number: signal.Signals) -> None:
        os.killpg(self.pid, number)

    def ends(self, status: int = 0) -> str:
        """Return what the process printed, having checked with which status it ends; one that hangs is killed."""
        self.process.join(TIMEOUT_S)
        hangs = self.process.is_alive()
        if hangs:
            self.send_to_group(signal.SIGKILL)
            self.process.join()
        told = self.output.read_text()
        assert not hangs, f"hangs:\n{told}"
        assert self.process.exitcode == status, told
        return told


def _train(arguments: list[str], output: Path, environment: dict[str, str], importable: Path | None) -> None:
    os.setsid()
    if importable:
        sys.path.insert(0, str(importable))
    multiprocessing.set_start_method("fork", force=True)  # for data workers, as it would be had a user started this
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with output.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    torch.set_num_threads(1)
    os.environ.update(environment | {"CUDA_VISIBLE_DEVICES": ""})
    rank_zero_only.rank = int(next((environment[name] for name in ("RANK", "SLURM_PROCID") if name in environment), 0))
    sys.argv = ["train", *arguments]
    main()


def rank_environments(num_ranks: int, **common: str) -> list[dict[str, str]]:
    """What torchrun tells the processes of one node."""
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port(), "WORLD_SIZE": str(num_ranks)}
    common |= {"LOCAL_WORLD_SIZE": str(num_ranks), "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_ranks)]


def task_environments(num_tasks: int, **common: str) -> list[dict[str, str]]:
    """What srun tells the tasks of one node."""
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port(), "SLURM_JOB_ID": "12345"}
    common |= {"SLURM_JOB_NAME": "lipsync", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
    common |= {"SLURM_NTASKS": str(num_tasks), "SLURM_NTASKS_PER_NODE": str(num_tasks)}
    return [{**common, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(num_tasks)]


def _free_port() -> str:
    with socket.socket() as listening:
        listening.bind(("", 0))
        return str(listening.getsockname()[1])


class Diary(Callback):
    """Writes down what each rank read in a batch, and what all its weights add up to after it."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(exist_ok=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        weights = sum(float(parameter.detach().double().sum()) for parameter in pl_module.parameters())
        with (self.folder / f"rank_{trainer.global_rank}_of_{trainer.world_size}.jsonl").open("a") as file:
            note = {"step": trainer.global_step, "seeds": batch["seed"].tolist(), "weights": weights}
            print(json.dumps(note), file=file)


class Poison(Callback):
    """Makes one batch of one rank not a number."""

    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step = rank, step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if (trainer.global_rank, batch_idx) == (self.rank, self.step):
            batch["mel"].fill_(torch.nan)


def diary(folder: Path, rank: int, ranks: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"rank_{rank}_of_{ranks}.jsonl").read_text().splitlines()]


def logged(run_dir: Path, column: str) -> list[float]:
    with (run_dir / "metrics.csv").open() as file:
        return [float(row[column]) for row in csv.DictReader(file) if row.get(column)]


def step_of(run_dir: Path) -> int:
    """The step of the newest checkpoint, 0 where there is none."""
    newest = newest_checkpoint(run_dir)
    return int(newest.stem.removeprefix("step_")) if newest else 0


def has_checkpoints(run_dir: Path, *, num: int = 1, after: int = 0) -> bool:
    return len(checkpoints_of(run_dir)) >= num and step_of(run_dir) > after
