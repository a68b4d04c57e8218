"""Faults of workers: in a module of its own, and light, so that other processes can import it."""

import ctypes
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from lipsync_lightning.errors import MissingWeights
from lipsync_lightning.media.people import PeopleTracker, SidecarPeople


@dataclass(frozen=True)
class DeadlyPeople(SidecarPeople):
    """Kills the process that asks for people of one video, as a fault in a decoder would, and hangs over another."""

    deadly: str
    endless: str

    def for_video(self, path: Path, first_frame: int = 0) -> PeopleTracker:
        if path.name == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if path.name == self.endless:
            ctypes.PyDLL(None).sleep(600)  # in C code, and a PyDLL keeps the interpreter's lock: no handler gets to run
        return super().for_video(path, first_frame)


@dataclass(frozen=True)
class SignalledPeople(SidecarPeople):
    """Receives SLURM's signal before the time limit, once."""

    received: str  # a file

    def for_video(self, path: Path, first_frame: int = 0) -> PeopleTracker:
        if not Path(self.received).exists():
            Path(self.received).touch()
            os.kill(os.getpid(), signal.SIGUSR2)
        return super().for_video(path, first_frame)


@dataclass(frozen=True)
class WeightlessPeople(SidecarPeople):
    def for_video(self, path: Path, first_frame: int = 0) -> PeopleTracker:
        raise MissingWeights("people.tflite: not there; fetch it")
