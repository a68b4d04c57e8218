"""Judges of sync for tests of where preparation runs: in a module of their own, so that other processes can import them."""

import os
import signal

import numpy as np

from lipsync_lightning.errors import MissingWeights
from lipsync_lightning.evaluation.sync import SyncScore
from tiny_media import FPS, RATE_HZ


class SteadyJudge:
    """Finds every clip in step."""

    version = "steady"
    fps = FPS
    sample_rate_hz = RATE_HZ

    def __call__(self, faces: np.ndarray, waveform: np.ndarray) -> SyncScore:
        return SyncScore(offset=0, distance=0.0, confidence=float(len(faces)))


class DeadlyJudge(SteadyJudge):
    """Kills the process that asks it about clips of 17 frames, as a fault in a decoder would."""

    def __call__(self, faces: np.ndarray, waveform: np.ndarray) -> SyncScore:
        if len(faces) == 17:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(faces, waveform)


class FailingJudge(SteadyJudge):
    """Cannot judge clips of 17 frames, this time."""

    def __call__(self, faces: np.ndarray, waveform: np.ndarray) -> SyncScore:
        if len(faces) == 17:
            raise MemoryError("no room just now")
        return super().__call__(faces, waveform)


class WeightlessJudge(SteadyJudge):
    def __call__(self, faces: np.ndarray, waveform: np.ndarray) -> SyncScore:
        raise MissingWeights("judge.pt: not there; fetch it")
