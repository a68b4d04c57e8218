"""Training of the SyncNet that later supervises stage 2."""

from functools import cached_property
from typing import Any, cast

import torch
from diffusers.optimization import get_constant_schedule
from einops import rearrange
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, distributed, nn
from torchmetrics import CatMetric
from torchmetrics.functional.classification import binary_auroc

from lipsync_lightning.clip import ClipSpec, WindowBatch, lower_half
from lipsync_lightning.errors import BadConfig
from lipsync_lightning.losses import similarity
from lipsync_lightning.losses.syncnet_objectives import ContrastiveObjective
from lipsync_lightning.models.autoencoder import Autoencoder, drawn, encoder_fingerprint
from lipsync_lightning.models.syncnet import SyncNet
from lipsync_lightning.models.weights_io import enable_checkpointing, frozen, load_matching
from lipsync_lightning.modules import hooks
from lipsync_lightning.modules.rebuilding import RebuiltModule
from lipsync_lightning.modules.rng import ClipRNG
from lipsync_lightning.modules.unet_stage1 import require_made_by
from lipsync_lightning.modules.weights import network_weights


class SyncNetModule(RebuiltModule):
    """Learns embeddings of lips and sound that agree where they belong together.

    Logs, of held-out windows with their own sound against the same windows with their neighbour's: `val/auc`,
    `val/accuracy` of each half at the threshold that the other half chooses (chance is 0.5 for both), and mean and
    spread of similarities. Of batches with `mel_around` also `val/offset_accuracy`, how often the sound within 5 frames
    that fits best lies at most 1 frame away (chance is 3/11), and `val/offset_frames`, by how many frames the sound
    fits best when it comes early, the median. Of several data sets loss, AUC and accuracy come again for each, as
    `val/auc/<set>`.

    Every validation calibrates the network by all its pairs: training pairs would make it surer than it is. A run that
    ends between two validations, or is resumed there, keeps the calibration of the one before.
    """

    frozen_parts = ("autoencoder",)

    def __init__(
        self,
        *,
        syncnet: SyncNet,
        clip: ClipSpec,
        autoencoder: Autoencoder | None = None,
        objective: nn.Module | None = None,
        optimizer: hooks.OptimizerFactory = hooks.published_adamw,
        schedule: hooks.ScheduleFactory = get_constant_schedule,
        gradient_checkpointing: bool = False,
    ) -> None:
        """Args:
        autoencoder: None for a SyncNet that sees the lower half of faces; else it sees the latents of whole faces, as
            that of LatentSync (arXiv 2412.09262), section 3.3, and supervision by it needs no decoding.
        objective: (vision (B, D), audio (B, D)) of matching pairs -> scalar loss. None: the contrastive one.
        gradient_checkpointing: compute blocks again in backward instead of keeping what they compute.
        """
        super().__init__()
        self.autoencoder = None if autoencoder is None else frozen(autoencoder)  # pyright: ignore[reportArgumentType]
        self.syncnet = syncnet
        if gradient_checkpointing:
            enable_checkpointing(self.syncnet)
        self.objective = objective or ContrastiveObjective()
        self.optimizer = optimizer
        self.schedule = schedule
        self.clip = clip
        # Not gathered over ranks: each reads all held-out clips, so gathering would count every window once per rank.
        self.matching, self.foreign, self.offsets = (CatMetric(sync_on_compute=False) for _ in range(3))
        self.sets: list[str] = []  # by pair that was seen, where there are several
        self.last_similarities: tuple[Tensor, Tensor] | None = None

    def forward(self, batch: WindowBatch) -> tuple[Tensor, Tensor]:
        """Return unit embeddings (B, D) of lips and of sound. Raises: as `lips`."""
        return self.syncnet(rearrange(self.lips(batch), "b t c h w -> b (t c) h w"), batch["mel"])

    @torch.no_grad()
    def lips(self, batch: WindowBatch) -> Tensor:
        """Return what the network looks at, lower halves or latents (B, T, C, H, W).

        Raises: BadConfig, for a batch that lacks it; ClipMismatch, for latents of another autoencoder.
        """
        seen = ("lips", "frames") if self.autoencoder is None else ("latents", "frames")
        if not any(key in batch for key in seen):
            told = f"this SyncNet looks at {' or '.join(seen)}, a batch holds {', '.join(sorted(batch))}"
            raise BadConfig(f"{told}; set data.samples.sees._target_ accordingly")
        if self.autoencoder is None:
            return batch["lips"] if "lips" in batch else lower_half(batch["frames"])
        draws = ClipRNG(batch["seed"], self.device).generators
        # Clip by clip: a batch of SyncNet has thousands of frames.
        if "latents" in batch:
            require_made_by(batch, self.autoencoder_fingerprint)
            clips = [drawn(each[:, 0], each[:, 1], [own]) for each, own in zip(batch["latents"], draws, strict=True)]
        else:
            clips = [self.autoencoder.encode(each, [own]) for each, own in zip(batch["frames"], draws, strict=True)]
        return torch.stack(clips).float()

    @cached_property
    def autoencoder_fingerprint(self) -> str:
        return encoder_fingerprint(self.autoencoder)

    def training_step(self, batch: WindowBatch, batch_idx: int) -> Tensor:
        vision_BD, audio_BD = self(batch)
        if distributed.is_initialized():  # with gradients: every rank's negatives are everybody's
            gathered = cast(tuple[Tensor, Tensor], self.all_gather((vision_BD, audio_BD), sync_grads=True))
            vision_BD, audio_BD = (rearrange(each, "ranks b d -> (ranks b) d") for each in gathered)
        if len(vision_BD) < 2:
            raise BadConfig(
                "SyncNet learns to tell windows apart and got a single one; raise data.batch_size to 2 or more"
            )
        loss = self.objective(vision_BD, audio_BD)
        self.log("train/loss", loss.detach())
        return loss

    def validation_step(self, batch: WindowBatch, batch_idx: int) -> None:
        vision_BD, audio_BD = self(batch)
        if "mel_around" in batch:
            is_whole_B = ~batch["mel_around"].isnan().flatten(1).any(dim=1)
            if is_whole_B.any():
                around = [
                    self.syncnet.embed_mel(mel_B1ML) for mel_B1ML in batch["mel_around"][is_whole_B].unbind(dim=1)
                ]
                self.offsets.update(similarity.best_offsets(vision_BD[is_whole_B], torch.stack(around, dim=1)))
        if len(vision_BD) < 2:
            return  # a last batch of one has no neighbour to borrow foreign sound from
        hooks.log_validation(self, {"val/loss": self.objective(vision_BD, audio_BD)}, batch)
        self.sets += batch.get("set", [])
        matching_B, foreign_B = similarity.matching_and_foreign(vision_BD, audio_BD)
        self.matching.update(matching_B)
        self.foreign.update(foreign_B)

    def on_validation_epoch_end(self) -> None:
        if not self.matching.update_called:
            told = "a single held-out window has no foreign sound: no AUC, no accuracy, no calibration"
            rank_zero_warn(f"{told}; hold more out (prepare's recipe.split.num_heldout or recipe.heldout_end)")
            self.offsets.reset()
            return
        matching, foreign = (torch.as_tensor(each.compute()).float() for each in (self.matching, self.foreign))
        scores = told_apart(matching, foreign)
        for name in sorted(set(self.sets)):
            is_own = torch.tensor([each == name for each in self.sets], device=matching.device)
            own = told_apart(matching[is_own], foreign[is_own])
            scores |= {f"{figure}/{name}": value for figure, value in own.items()}
        self.sets = []
        kinds = {"matching": matching, "foreign": foreign}
        for kind, values in kinds.items():
            scores[f"val/similarity_{kind}_mean"] = float(values.mean())
            scores[f"val/similarity_{kind}_std"] = float(values.std())
        calibration = similarity.calibrated(matching, foreign)
        self.syncnet.calibrate(*calibration)
        scores["val/threshold"] = calibration.threshold
        if self.offsets.update_called:
            offsets = torch.as_tensor(self.offsets.compute()).float()
            # One frame to either side cannot be told from lips and sound in step.
            scores["val/offset_accuracy"] = float((offsets.abs() <= 1).float().mean())
            scores["val/offset_frames"] = float(offsets.quantile(0.5))
        for metric in (self.matching, self.foreign, self.offsets):
            metric.reset()
        self.log_dict(scores)
        self.last_similarities = (matching.cpu(), foreign.cpu())
        rows = [[value, kind] for kind, values in kinds.items() for value in values.tolist()]
        for logger in self.loggers:
            if hasattr(logger, "log_table"):  # wandb's logger; csv cannot hold a distribution
                logger.log_table("val/similarities", columns=["similarity", "pair"], data=rows)  # pyright: ignore[reportAttributeAccessIssue]

    def configure_optimizers(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return hooks.optimizer_with_schedule(self, self)

    def on_train_end(self) -> None:
        if self.syncnet.config["calibration"] is None:
            told = "no held-out pairs were seen: this SyncNet is not calibrated, its similarity counts as probability"
            rank_zero_warn(f"{told}; prepare held-out clips, or set trainer.val_check_interval below the run's steps")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        hooks.leave_out_frozen(self, checkpoint)
        checkpoint["calibration"] = self.syncnet.config["calibration"]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"].pop("recent_similarity", None)  # of older versions
        hooks.put_back_frozen(self, checkpoint)
        if checkpoint.get("calibration") is not None:
            self.syncnet.calibrate(**checkpoint["calibration"])

    def load_weights(self, path: str, which: str | int = "last") -> None:
        """Start from another run's SyncNet. Raises: MissingWeights, WrongWeights."""
        load_matching(self.syncnet, network_weights(path, "syncnet", which), allowed_missing=())


def told_apart(matching: Tensor, foreign: Tensor) -> dict[str, float]:
    """Return AUC and accuracy of similarities (P,) of as many matching and foreign pairs, in the order of clips."""
    is_matching = torch.cat([torch.ones_like(matching), torch.zeros_like(foreign)]).long()
    auc = float(binary_auroc(torch.cat([matching, foreign]), is_matching))
    return {"val/auc": auc, "val/accuracy": similarity.accuracy(matching, foreign)}
