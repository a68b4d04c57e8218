"""How far apart SyncNet holds matching and foreign sound, kept for pages that are made without an account."""

from pathlib import Path

import numpy as np
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lipsync_lightning.callbacks.step_rows import SIMILARITIES_TABLE, put_rows
from lipsync_lightning.errors import BadConfig

NUM_BINS = 41  # a twentieth wide, centred at -1.00, -0.95, ... 1.00
_EDGES = np.linspace(-1, 1, NUM_BINS + 1) * NUM_BINS / (NUM_BINS - 1)


class SimilarityHistogram(Callback):
    """Writes `<run_dir>/similarities.csv` at each validation: how many held-out windows have which similarity.

    Rows `matching` (with their own sound) and `foreign` (with their neighbour's) for each step; each bin's column is named after its
    centre. Values are those the module left in `last_similarities`.
    """

    def __init__(self, *, run_dir: str) -> None:
        self.path = Path(run_dir) / SIMILARITIES_TABLE

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raises: BadConfig, if the module does not keep its similarities."""
        if not hasattr(pl_module, "last_similarities"):
            raise BadConfig(
                f"SimilarityHistogram needs a SyncNetModule, got {type(pl_module).__name__}; "
                "take it out of the callbacks (~callbacks.similarity_histogram)"
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        similarities: tuple[Tensor, Tensor] | None = pl_module.last_similarities  # pyright: ignore[reportAssignmentType, reportAttributeAccessIssue]
        if similarities is None or trainer.sanity_checking or not trainer.is_global_zero:
            return
        rows = [histogram_row(kind, values) for kind, values in zip(("matching", "foreign"), similarities, strict=True)]
        put_rows(self.path, trainer.global_step, rows)


def histogram_row(kind: str, similarities: Tensor) -> dict[str, str | int]:
    """Return how many of (P,) similarities in [-1, 1] lie in each bin, by the bin's centre, behind their kind."""
    counts, _ = np.histogram(similarities.float().cpu().numpy(), _EDGES)
    centres = (_EDGES[1:] + _EDGES[:-1]) / 2
    return {"kind": kind} | {f"{centre:.2f}": int(count) for centre, count in zip(centres, counts, strict=True)}
