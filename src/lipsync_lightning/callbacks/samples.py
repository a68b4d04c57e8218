"""What a stage makes of held-out clips, at each validation: to look at, and as figures."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.files import write_atomically
from lipsync_lightning.losses.sync import SyncLoss
from lipsync_lightning.media.frames import to_uint8
from lipsync_lightning.media.mux import video_writer
from lipsync_lightning.media.strips import film_strip, save_png
from lipsync_lightning.models.weights_io import frozen

STRIP_COLUMNS = 6
SCORES = ("sync_real", "sync_generated", "sync_control", "psnr_mouth")


@dataclass(frozen=True)
class Sample:
    """A window of one held-out clip and what the module made of it; videos are (T, 3, H, W) in [-1, 1]."""

    id: str
    real: Tensor
    generated: Tensor
    keep_mask: Tensor  # (1, H, W)
    mel: Tensor  # (1, M, L)

    def psnr_mouth(self) -> float:
        """Return the PSNR in dB of the pixels that were generated."""
        made = self.keep_mask[0] == 0
        generated, real = (video[:, :, made].float() for video in (self.generated, self.real))
        return float(peak_signal_noise_ratio(generated, real, data_range=2.0))


class SampleWriter(Callback):
    """Generates a window of each of the first held-out clips at each validation and writes them to `<run_dir>/samples`.

    Per clip `step_<step>/<id>_<number>.png`, real, masked and generated frames from top to bottom, and `.mp4`, the same
    from left to right, silent. `samples.csv` has a row for each: `sync_real`, `sync_generated` and `sync_control` (the
    generated lips with the next clip's sound), each a SyncNet's probability that lips and sound belong together, and
    `psnr_mouth`. Their means are logged as `val/...`, and a wandb logger gets a table of all. Training stays the same
    to the bit.
    """

    def __init__(self, *, run_dir: str, num_clips: int, judge: SyncLoss | None) -> None:
        """Args: judge: whose SyncNet scores; None: that of the stage's own sync loss, if it has one."""
        self.run_dir = Path(run_dir)
        self.num_clips = num_clips
        self.judge = None if judge is None else frozen(judge)
        self.samples: list[Sample] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raises: BadConfig, if the module generates nothing."""
        if not hasattr(pl_module, "generate"):
            told = f"SampleWriter needs a module that generates frames, {type(pl_module).__name__} does not"
            raise BadConfig(f"{told}; leave it out by ~callbacks.film_strips")
        if self.judge is not None:
            self.judge.to(trainer.strategy.root_device)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if trainer.sanity_checking:
            return
        if "set" in batch:  # ids of two sets may be equal
            batch = {**batch, "id": ["/".join(names) for names in zip(batch["set"], batch["id"], strict=True)]}
        ids, known = batch["id"], {sample.id for sample in self.samples}
        first_of_clips = [row for row, id in enumerate(ids) if id not in known and id not in ids[:row]]
        rows = first_of_clips[: self.num_clips - len(self.samples)]
        if not rows:
            return
        chosen: Any = {
            key: values[rows] if isinstance(values, Tensor) else [values[row] for row in rows]
            for key, values in batch.items()
        }
        # On all ranks: they read the same held-out clips, and would only wait for the first one meanwhile.
        with isolate_rng(), trainer.precision_plugin.val_step_context():
            generated = pl_module.generate(chosen)
        columns = (chosen["id"], chosen["frames"], generated, chosen["keep_mask"], chosen["mel"])
        self.samples += [Sample(*values) for values in zip(*columns, strict=True)]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        samples, self.samples = self.samples, []
        if not samples or not trainer.is_global_zero:
            return
        judge = self.judge or next((part for part in pl_module.modules() if isinstance(part, SyncLoss)), None)
        rows: list[dict[str, Any]] = []
        for number, (sample, other) in enumerate(zip(samples, [*samples[1:], samples[0]], strict=True)):
            name = f"samples/step_{trainer.global_step:06d}/{number}"
            files = {"strip": f"{name}.png", "video": f"{name}.mp4"}
            write_pictures(sample, self.run_dir / files["strip"], self.run_dir / files["video"], pl_module.clip.fps)
            scores: dict[str, float | None] = dict.fromkeys(SCORES) | {"psnr_mouth": sample.psnr_mouth()}
            if judge is not None:
                with isolate_rng(), trainer.precision_plugin.val_step_context():
                    scores["sync_real"] = in_sync(judge, sample.real, sample.mel)
                    scores["sync_generated"] = in_sync(judge, sample.generated, sample.mel)
                    if other is not sample:
                        scores["sync_control"] = in_sync(judge, sample.generated, other.mel)
            rows.append({"number": number, "id": sample.id, **files, **scores})
        put_rows(self.run_dir / "samples" / "samples.csv", trainer.global_step, rows)
        for score in SCORES:
            values = [row[score] for row in rows if row[score] is not None]
            if values:
                pl_module.log(f"val/{score}", sum(values) / len(values), rank_zero_only=True)
        for logger in trainer.loggers:
            if hasattr(logger, "log_table"):  # wandb's logger; csv cannot hold pictures
                import wandb  # which takes a second, and nobody else needs

                data = []
                for row in rows:
                    strip, video = (str(self.run_dir / row[key]) for key in ("strip", "video"))
                    media = [wandb.Image(strip), wandb.Video(video, format="mp4")]
                    data.append([row["id"], *media, *(row[score] for score in SCORES)])
                table: Any = logger
                columns = ["id", "strip", "video", *SCORES]
                table.log_table("val/film_strips", columns=columns, data=data, step=trainer.global_step)


def write_pictures(sample: Sample, strip: Path, video: Path, fps: int) -> None:
    """Write a sample's film strip and its video: real, masked and generated frames."""
    videos = (sample.real, sample.real * sample.keep_mask, sample.generated)
    rows = [rearrange(to_uint8(frames), "t c h w -> t h w c").cpu().numpy() for frames in videos]
    save_png(strip, film_strip(rows, STRIP_COLUMNS))
    beside = np.concatenate(rows, axis=2)
    with video_writer(video, width=beside.shape[2], height=beside.shape[1], fps=fps) as write:
        for frame in beside:
            write(frame)


def in_sync(judge: SyncLoss, frames: Tensor, mel: Tensor) -> float:
    """Return the probability that lips (T, 3, H, W) and sound (1, M, L) belong together."""
    return float(judge.syncnet.probability(judge.similarity(frames[None], mel[None])))


def put_rows(path: Path, step: int, rows: Sequence[Mapping[str, object]]) -> None:
    """Write the rows of a step behind those of earlier steps into a csv, whole or not at all.

    Rows of this step and of later ones are replaced: a run that was resumed before them makes them again.

    Args: rows: at least one, all with the same columns; `step` is put in front of them.
    """
    before = csv.DictReader(path.read_text().splitlines() if path.is_file() else [])
    text = io.StringIO()
    table = csv.DictWriter(text, ["step", *rows[0]], extrasaction="ignore")
    table.writeheader()
    table.writerows(row for row in before if int(row["step"]) < step)
    table.writerows({"step": step, **row} for row in rows)
    write_atomically(path, text.getvalue().encode())
