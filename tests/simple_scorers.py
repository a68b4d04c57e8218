"""Sync scorers for tests of the executors: in a module of their own, so that other processes can import them."""

import ctypes
import os
import signal

import numpy as np

from lipsync_lightning.errors import MissingWeights
from lipsync_lightning.evaluation.sync import SyncScore
from tiny_media import FPS, RATE_HZ


class SteadyScorer:
    """Finds every clip in step."""

    version = "steady"
    fps = FPS
    sample_rate_hz = RATE_HZ

    def __call__(self, faces: np.ndarray, waveform: np.ndarray) -> SyncScore:
        return SyncScore(offset=0, distance=0.0, confidence=float(len(faces)))


class DeadlyScorer(SteadyScorer):
    """Kills the process that asks it about clips of 17 frames, as a fault in a decoder would."""

    def __call__(self, faces: np.ndarray, waveform: np.ndarray) -> SyncScore:
        if len(faces) == 17:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(faces, waveform)


class DeadlyOrHangingScorer(DeadlyScorer):
    """Moreover hangs in C code, of which Python's signal handlers know nothing, over clips of 15 frames."""

    def __call__(self, faces: np.ndarray, waveform: np.ndarray) -> SyncScore:
        if len(faces) == 15:
            ctypes.PyDLL(None).sleep(600)  # a PyDLL keeps the interpreter's lock
        return super().__call__(faces, waveform)


class WeightlessScorer(SteadyScorer):
    def __call__(self, faces: np.ndarray, waveform: np.ndarray) -> SyncScore:
        raise MissingWeights("scorer.pt: not there; fetch it")
