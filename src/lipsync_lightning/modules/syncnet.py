"""Training of the SyncNet that later supervises stage 2."""

from typing import Any, cast

import torch
from einops import rearrange
from lightning import LightningModule
from torch import Tensor, distributed, nn
from torchmetrics import CatMetric
from torchmetrics.functional.classification import binary_auroc

from lipsync_lightning.clip import ClipSpec, WindowBatch, lower_half
from lipsync_lightning.evaluation.similarity import (
    Calibration,
    best_offsets,
    calibrated,
    matching_and_foreign,
    offset_accuracy,
    pair_accuracy,
)
from lipsync_lightning.models.syncnet import SyncNet
from lipsync_lightning.models.weights_io import load_matching
from lipsync_lightning.modules.checkpointing import leave_out_frozen, put_back_frozen
from lipsync_lightning.modules.optimization import OptimizerFactory, ScheduleFactory, optimizer_with_schedule
from lipsync_lightning.modules.weights import network_weights

RECENT_PAIRS = 2048  # training pairs from which the decision threshold is chosen


class SyncNetModule(LightningModule):
    """Learns embeddings of lips and sound that agree where they belong together.

    Logs `val/accuracy` (at the similarity that recent training pairs make as likely matching as not), `val/auc` and mean and spread of
    similarities, of held-out windows with their own sound against the same windows with their neighbour's (chance is 0.5 for both). Of
    batches with `mel_around` also `val/offset_accuracy`, how often the sound within 5 frames that fits best lies at most 1 frame away
    (chance is 3/11), and `val/offset_frames`, by how many frames the sound fits best when it comes early, the median.
    """

    def __init__(
        self,
        *,
        syncnet: SyncNet,
        objective: nn.Module,
        optimizer: OptimizerFactory,
        schedule: ScheduleFactory,
        clip: ClipSpec,
    ) -> None:
        """Args: objective: (vision (B, D), audio (B, D)) of matching pairs -> scalar loss."""
        super().__init__()
        self.syncnet = syncnet
        self.objective = objective
        self.optimizer = optimizer
        self.schedule = schedule
        self.clip = clip
        self.register_buffer("recent_similarity", torch.full((2, RECENT_PAIRS), torch.nan))  # matching, foreign
        # Not gathered over ranks: each reads all held-out clips, so gathering would count every window once per rank.
        self.matching = CatMetric(sync_on_compute=False)
        self.foreign = CatMetric(sync_on_compute=False)
        self.offsets = CatMetric(sync_on_compute=False)
        self.last_similarities: tuple[Tensor, Tensor] | None = None

    def forward(self, batch: WindowBatch) -> tuple[Tensor, Tensor]:
        """Return unit embeddings (B, D) of lips and of sound."""
        return self.syncnet(rearrange(self.looked_at(batch), "b t c h w -> b (t c) h w"), batch["mel"])

    def looked_at(self, batch: WindowBatch) -> Tensor:
        """Return what the network sees of the clips, (B, T, C, h, w): the lower half of their faces."""
        return lower_half(batch["frames"])

    def training_step(self, batch: WindowBatch, batch_idx: int) -> Tensor:
        vision_BD, audio_BD = (self._of_all_ranks(embedding_BD) for embedding_BD in self(batch))
        loss = self.objective(vision_BD, audio_BD)
        self._remember(*matching_and_foreign(vision_BD.detach(), audio_BD.detach()))
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: WindowBatch, batch_idx: int) -> None:
        vision_BD, audio_BD = self(batch)
        self._note_best_offsets(vision_BD, batch)
        if len(vision_BD) < 2:
            return  # a last batch of one has no neighbour to borrow foreign sound from
        self.log("val/loss", self.objective(vision_BD, audio_BD), batch_size=len(vision_BD), sync_dist=True)
        matching_B, foreign_B = matching_and_foreign(vision_BD, audio_BD)
        self.matching.update(matching_B)
        self.foreign.update(foreign_B)

    def on_validation_epoch_end(self) -> None:
        matching, foreign = self._computed(self.matching), self._computed(self.foreign)
        scores = {
            "val/auc": float(binary_auroc(torch.cat([matching, foreign]), _labels(matching, foreign))),
            "val/similarity_matching_mean": float(matching.mean()),
            "val/similarity_matching_std": float(matching.std()),
            "val/similarity_foreign_mean": float(foreign.mean()),
            "val/similarity_foreign_std": float(foreign.std()),
        }
        calibration = self.calibration()
        if calibration is not None:
            scores |= {
                "val/accuracy": pair_accuracy(matching, foreign, calibration.threshold),
                "val/threshold": calibration.threshold,
            }
        if self.offsets.update_called:
            offsets = self._computed(self.offsets)
            scores |= {
                "val/offset_accuracy": offset_accuracy(offsets),
                "val/offset_frames": float(offsets.quantile(0.5)),
            }
        self.log_dict(scores, prog_bar=False)
        self._log_histograms(matching, foreign)
        self.last_similarities = (matching.cpu(), foreign.cpu())

    def configure_optimizers(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return optimizer_with_schedule(self.parameters(), self.optimizer, self.schedule)

    def on_train_end(self) -> None:
        calibration = self.calibration()
        if calibration is not None:
            self.syncnet.calibrate(*calibration)

    def calibration(self) -> Calibration | None:
        """Return the calibration of recent training pairs, or None before any step."""
        matching, foreign = (recent[~recent.isnan()] for recent in self.recent_similarity)
        return calibrated(matching, foreign) if len(matching) else None

    def load_weights(self, path: str) -> None:
        """Start from another run's SyncNet. Raises: MissingWeights, WrongWeights."""
        load_matching(self.syncnet, network_weights(path, "syncnet"), allowed_missing=())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        leave_out_frozen(checkpoint, (), self.clip)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        put_back_frozen(checkpoint, self, (), self.clip)

    def _of_all_ranks(self, embedding_BD: Tensor) -> Tensor:
        """The embeddings of all ranks one after another, with gradients: every rank's negatives are everybody's."""
        if not distributed.is_initialized():
            return embedding_BD
        gathered = cast(Tensor, self.all_gather(embedding_BD, sync_grads=True))
        return rearrange(gathered, "ranks b d -> (ranks b) d")

    def _remember(self, matching_B: Tensor, foreign_B: Tensor) -> None:
        new = torch.stack([matching_B, foreign_B]).to(self.recent_similarity)
        self.recent_similarity = torch.cat([self.recent_similarity, new], dim=1)[:, -RECENT_PAIRS:]

    def _note_best_offsets(self, vision_BD: Tensor, batch: WindowBatch) -> None:
        if "mel_around" not in batch:
            return
        is_whole_B = ~batch["mel_around"].isnan().flatten(1).any(dim=1)
        if is_whole_B.any():
            mel_of_offset = batch["mel_around"][is_whole_B].unbind(dim=1)
            audio_around = torch.stack([self.syncnet.embed_mel(mel_B1ML) for mel_B1ML in mel_of_offset], dim=1)
            self.offsets.update(best_offsets(vision_BD[is_whole_B], audio_around))

    def _computed(self, metric: CatMetric) -> Tensor:
        values = torch.as_tensor(metric.compute()).float()
        metric.reset()
        return values

    def _log_histograms(self, matching: Tensor, foreign: Tensor) -> None:
        for logger in self.loggers:
            if hasattr(logger, "log_table"):  # wandb's logger; csv cannot hold a distribution
                rows = [
                    [float(value), kind]
                    for values, kind in ((matching, "matching"), (foreign, "foreign"))
                    for value in values
                ]
                logger.log_table("val/similarities", columns=["similarity", "pair"], data=rows)  # pyright: ignore[reportAttributeAccessIssue]


def _labels(matching: Tensor, foreign: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(matching), torch.zeros_like(foreign)]).long()
