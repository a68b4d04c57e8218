"""How well a SyncNet tells matching from foreign sound on clips it has not seen."""

from collections.abc import Iterable
from itertools import islice

import torch
from einops import rearrange
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from lipsync_lightning.clip import WindowBatch, lower_half
from lipsync_lightning.losses.similarity import best_threshold, matching_and_foreign, pair_accuracy
from lipsync_lightning.models.syncnet import StableSyncNet


@torch.no_grad()
def pair_similarities(syncnet: StableSyncNet, batches: Iterable[WindowBatch]) -> tuple[Tensor, Tensor]:
    """Return the similarities (P,) of all windows, as `matching_and_foreign` pairs them when they stand in one row.

    Paired over all batches at once, so that the figure does not depend on the batch size.
    """
    embeddings = []
    for batch in batches:
        vision_BD, audio_BD = syncnet(
            lower_half(rearrange(batch["frames"], "b t c h w -> b (t c) h w")).to(syncnet.device),
            batch["mel"].to(syncnet.device),
        )
        embeddings.append((vision_BD, audio_BD))
    vision, audio = zip(*embeddings, strict=True)
    return matching_and_foreign(torch.cat(vision), torch.cat(audio))


def heldout_accuracy(
    syncnet: StableSyncNet, training: Iterable[WindowBatch], heldout: Iterable[WindowBatch], num_training_batches: int
) -> dict[str, float]:
    """Return `syncnet_accuracy`, `syncnet_auc` on held-out windows and the `syncnet_threshold` chosen on training windows."""
    threshold = best_threshold(*pair_similarities(syncnet, islice(training, num_training_batches)))
    matching, foreign = pair_similarities(syncnet, heldout)
    labels = torch.cat([torch.ones_like(matching), torch.zeros_like(foreign)]).long()
    return {
        "syncnet_accuracy": pair_accuracy(matching, foreign, threshold),
        "syncnet_auc": float(binary_auroc(torch.cat([matching, foreign]), labels)),
        "syncnet_threshold": threshold,
    }
