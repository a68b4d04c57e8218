"""What a stage makes of held-out clips, at each validation: to look at, and as figures."""

import warnings
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from einops import rearrange
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from lipsync_lightning.callbacks.step_rows import SAMPLE_SCORES, SAMPLES_TABLE, put_rows
from lipsync_lightning.clip import ClipBatch, ClipSpec
from lipsync_lightning.errors import BadConfig
from lipsync_lightning.losses.sync import SyncLoss
from lipsync_lightning.media.mux import VideoWriter
from lipsync_lightning.media.strips import film_strip, save_png
from lipsync_lightning.models.weights_io import frozen

STRIP_COLUMNS = 6
_FILES = {"strip": "png", "video": "mp4"}
_DATA_RANGE = 2.0  # of frames in [-1, 1]


Row = dict[str, Any]  # of the table, by column


@runtime_checkable
class Generates(Protocol):
    """A module that can show what it makes."""

    clip: ClipSpec

    def generate(self, batch: ClipBatch) -> Tensor: ...


@dataclass(frozen=True)
class Sample:
    """A window of one held-out clip and what the module made of it; videos are (T, 3, H, W) in [-1, 1]."""

    id: str
    real: Tensor
    generated: Tensor
    keep_mask: Tensor  # (1, H, W)
    mel: Tensor  # (1, M, L)

    @property
    def masked(self) -> Tensor:
        return self.real * self.keep_mask

    def psnr_mouth(self) -> float:
        """Return the PSNR in dB of the pixels that were made and not given."""
        made = self.keep_mask[0] == 0
        psnr = peak_signal_noise_ratio(
            self.generated[:, :, made].float(), self.real[:, :, made].float(), data_range=_DATA_RANGE
        )
        return float(psnr)


class FilmStrips(Callback):
    """Generates a window of each of the first held-out clips at each validation and writes them to `<run_dir>/samples`.

    Per clip `step_<step>/<id>_<number>.png`, real, masked and generated frames from top to bottom, and `.mp4`, the same from left to
    right, silent. `samples.csv` has a row for each: `sync_real`, `sync_generated` and `sync_control` (the generated lips against the next
    clip's sound), each how probable a SyncNet holds it that lips and sound belong together, and `psnr_mouth`. Their means are logged as
    `val/...`, and a wandb logger gets a table of all. Training goes the way it would go without. Under an `FSDPStrategy` there are no
    samples, and a warning says so.
    """

    def __init__(self, *, run_dir: str, num_clips: int, judge: SyncLoss | None) -> None:
        """Args: judge: whose SyncNet scores; None for the one the stage is trained with, and for no scores where there is none."""
        self.run_dir = Path(run_dir)
        self.num_clips = num_clips
        self.judge = None if judge is None else frozen(judge)
        self.samples: list[Sample] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Warns, if the strategy allows no samples. Raises: BadConfig, if the module generates nothing."""
        if not isinstance(pl_module, Generates):
            raise BadConfig(
                f"FilmStrips needs a module that generates frames, {type(pl_module).__name__} does not; "
                "take it out of the callbacks (~callbacks.film_strips)"
            )
        if _allows_no_samples(trainer) and trainer.is_global_zero:
            warnings.warn(
                "no samples of held-out clips will be written: under FSDPStrategy parameters are whole only while the strategy itself "
                "calls the module, and samples are generated outside of that; train with trainer=ddp to see samples, or take FilmStrips "
                "out of the callbacks (~callbacks.film_strips)",
                stacklevel=2,
            )
        if self.judge is not None:
            self.judge.to(trainer.strategy.root_device)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.samples = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: ClipBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.sanity_checking or _allows_no_samples(trainer):
            return
        rows = rows_of_new_clips(batch["id"], {sample.id for sample in self.samples})[
            : self.num_clips - len(self.samples)
        ]
        if not rows:
            return
        chosen: Any = {key: [value[row] for row in rows] for key, value in batch.items()}  # pyright: ignore[reportIndexIssue]
        chosen |= {key: torch.stack(values) for key, values in chosen.items() if isinstance(values[0], Tensor)}
        # On all ranks: they read the same held-out clips, and would only wait for the first one meanwhile.
        with isolate_rng(), trainer.precision_plugin.val_step_context():
            generated = pl_module.generate(chosen)  # pyright: ignore[reportCallIssue]
        columns = (chosen["id"], chosen["frames"], generated, chosen["keep_mask"], chosen["mel"])
        self.samples += [Sample(*values) for values in zip(*columns, strict=True)]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.samples or not trainer.is_global_zero:
            return
        judge = own_judge(pl_module) if self.judge is None else self.judge
        with isolate_rng(), trainer.precision_plugin.val_step_context():
            scores = all_scores(self.samples, judge)
        fps: int = pl_module.clip.fps  # pyright: ignore[reportAttributeAccessIssue, reportAssignmentType]
        files = [self._files_of(number, sample, trainer.global_step, fps) for number, sample in enumerate(self.samples)]
        rows = [of_sample | scores_of_sample for of_sample, scores_of_sample in zip(files, scores, strict=True)]
        put_rows(self.run_dir / SAMPLES_TABLE, trainer.global_step, rows)
        for name in SAMPLE_SCORES:
            values = [float(row[name]) for row in rows if row[name] is not None]
            if values:
                pl_module.log(f"val/{name}", sum(values) / len(values), rank_zero_only=True)
        self._log_table(trainer, rows)
        self.samples = []

    def _files_of(self, number: int, sample: Sample, step: int, fps: int) -> Row:
        """Write one sample's film strip and video, and return where they lie, from the run's folder."""
        rows = [pictures(video) for video in (sample.real, sample.masked, sample.generated)]
        folder = (self.run_dir / SAMPLES_TABLE).parent / f"step_{step:06d}"
        name = f"{sample.id.replace('/', '_')}_{number}"
        save_png(folder / f"{name}.png", film_strip(rows, STRIP_COLUMNS))
        beside = np.concatenate(rows, axis=2)
        with VideoWriter(folder / f"{name}.mp4", width=beside.shape[2], height=beside.shape[1], fps=fps) as video:
            for frame in beside:
                video.write(frame)
        files = {kind: str((folder / f"{name}.{ending}").relative_to(self.run_dir)) for kind, ending in _FILES.items()}
        return {"number": number, "id": sample.id, **files}

    def _log_table(self, trainer: Trainer, rows: Sequence[Row]) -> None:
        for logger in trainer.loggers:
            if hasattr(logger, "log_table"):  # wandb's logger; csv cannot hold pictures
                import wandb  # which takes a second, and nobody else needs

                data = [
                    [
                        row["id"],
                        wandb.Image(str(self.run_dir / row["strip"])),
                        wandb.Video(str(self.run_dir / row["video"]), format="mp4"),
                        *(row[name] for name in SAMPLE_SCORES),
                    ]
                    for row in rows
                ]
                logger.log_table(
                    "val/film_strips",
                    columns=["id", "strip", "video", *SAMPLE_SCORES],
                    data=data,
                    step=trainer.global_step,
                )  # pyright: ignore[reportAttributeAccessIssue]


def _allows_no_samples(trainer: Trainer) -> bool:
    return isinstance(trainer.strategy, FSDPStrategy)


def own_judge(module: LightningModule) -> SyncLoss | None:
    """Return the loss term by which a module's generated lips are held to their sound, or None."""
    terms = getattr(getattr(module, "losses", None), "terms", {})
    return next((term.loss for term in terms.values() if isinstance(term.loss, SyncLoss)), None)


def rows_of_new_clips(ids: Sequence[str], known: Set[str]) -> list[int]:
    """Return where each clip that is not `known` stands first among `ids`, in order."""
    return [row for row, id in enumerate(ids) if id not in known and id not in ids[:row]]


def all_scores(samples: Sequence[Sample], judge: SyncLoss | None) -> list[Row]:
    """Return the `SAMPLE_SCORES` of samples of different clips, None where there is no judge, or no second clip with foreign sound."""
    return [
        {
            "sync_real": None if judge is None else probability(judge, sample.real, sample.mel),
            "sync_generated": None if judge is None else probability(judge, sample.generated, sample.mel),
            "sync_control": None
            if judge is None or other is sample
            else probability(judge, sample.generated, other.mel),
            "psnr_mouth": sample.psnr_mouth(),
        }
        for sample, other in zip(samples, [*samples[1:], *samples[:1]], strict=True)
    ]


def probability(judge: SyncLoss, frames: Tensor, mel: Tensor) -> float:
    """Return how probable `judge` holds it that lips (T, 3, H, W) and sound (1, M, L) belong together.

    It is what its loss is the negative logarithm of, not below its `lowest_probability`.
    """
    return float(torch.exp(-judge(frames[None], mel[None])))


def pictures(frames: Tensor) -> np.ndarray:
    """Return (T, 3, H, W) frames in [-1, 1] as (T, H, W, 3) uint8."""
    levels = (frames.float() * 127.5 + 127.5).round().clamp(0, 255).byte()
    return rearrange(levels, "t c h w -> t h w c").cpu().numpy()
