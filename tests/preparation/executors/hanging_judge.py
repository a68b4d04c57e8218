"""A judge of sync in a module of its own, so that other processes can import it."""

from itertools import repeat

import numpy as np

from lipsync_lightning.evaluation.sync import SyncScore
from simple_judges import DeadlyJudge


def hang() -> None:
    """Stay in C code that looks for no signal, for minutes."""
    sum(repeat(0, 10**10))


class DeadlyOrHangingJudge(DeadlyJudge):
    """Does not come back from clips of 15 frames."""

    def __call__(self, faces: np.ndarray, waveform: np.ndarray) -> SyncScore:
        if len(faces) == 15:
            hang()
        return super().__call__(faces, waveform)
