"""What lies in the folder of a single training run, finished or still going."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.evaluation.curves import Series
from lipsync_lightning.evaluation.run_folder import log_files, whole_log

CONFIG = "config.yaml"
SAMPLES_TABLE, SIMILARITIES_TABLE = "samples/samples.csv", "similarities.csv"  # as the callbacks write them
SAMPLE_SCORES = ("sync_real", "sync_generated", "sync_control", "psnr_mouth")
OF_A_ROAD = ("metrics.json", "steps.json")  # in the folder of a whole road of runs
Row = Mapping[str, Any]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Histogram:
    """How many held-out windows had which similarity at one validation."""

    step: int
    centres: np.ndarray  # (bins,)
    counts: Mapping[str, np.ndarray]  # (bins,) of each kind: matching, foreign


@dataclass(frozen=True)
class TrainingRun:
    """The readable content of a training run's folder; what is not there is empty."""

    path: Path
    log: Mapping[str, Series]
    num_parts: int  # of the log: one more than times the run was resumed
    samples: Mapping[int, tuple[Row, ...]]  # by step, ascending
    histograms: tuple[Histogram, ...]  # by step, ascending
    config: str


def is_training_run(path: Path) -> bool:
    """Return whether a folder is that of one training run, not of a road of several with their evaluation."""
    has_own = (path / CONFIG).is_file() or bool(log_files(path))
    return has_own and not any((path / name).is_file() for name in OF_A_ROAD)


def read_training_run(path: Path) -> TrainingRun:
    """Return what a training run's folder holds. Raises: BadMedia, if a file in it is not what its name says."""
    config = path / CONFIG
    return TrainingRun(
        path=path,
        log=whole_log(path),
        num_parts=len(log_files(path)),
        samples=_samples(path / SAMPLES_TABLE),
        histograms=_histograms(path / SIMILARITIES_TABLE),
        config=config.read_text(encoding="utf-8") if config.is_file() else "",
    )


def first_middle_last(items: Sequence[Item]) -> list[Item]:
    """Return the first, the middle and the last of some items, each once where there are fewer than three."""
    places = sorted({0, (len(items) - 1) // 2, len(items) - 1}) if items else []
    return [items[place] for place in places]


def _samples(path: Path) -> dict[int, tuple[Row, ...]]:
    by_step: dict[int, list[Row]] = {}
    try:
        for row in _rows(path):
            scores = {name: float(row[name]) if row.get(name) else None for name in SAMPLE_SCORES}
            by_step.setdefault(int(row["step"]), []).append({**row, "number": int(row["number"]), **scores})
    except (KeyError, TypeError, ValueError) as error:
        raise BadMedia(
            f"{path} is not a table of samples ({error!r}); delete it, the next validation writes it anew"
        ) from error
    return {step: tuple(by_step[step]) for step in sorted(by_step)}


def _histograms(path: Path) -> tuple[Histogram, ...]:
    by_step: dict[int, dict[str, np.ndarray]] = {}
    centres = np.empty(0)
    try:
        for row in _rows(path):
            step, kind = int(row.pop("step")), row.pop("kind")
            centres = np.array([float(centre) for centre in row])
            by_step.setdefault(step, {})[kind] = np.array([int(count) for count in row.values()])
    except (KeyError, TypeError, ValueError) as error:
        raise BadMedia(
            f"{path} is not a table of similarities ({error!r}); delete it, the next validation writes it anew"
        ) from error
    return tuple(Histogram(step, centres, by_step[step]) for step in sorted(by_step))


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
