"""What lies in a run folder and belongs into its report."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from lipsync_lightning.errors import BadConfig, BadMedia
from lipsync_lightning.evaluation.curves import Series, read_csv_log

STAGE_ORDER = ("autoencoder", "syncnet", "stage1", "stage2")  # as they are trained; others follow by name
Row = Mapping[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """The readable content of a run folder; what is not there is empty."""

    path: Path
    metrics: Mapping[str, Any]  # `metrics.json` without its bars and rows
    bars: Mapping[str, float]
    rows: tuple[Row, ...]  # one a generated clip
    steps: tuple[Row, ...]  # commands run, in order
    stages: Mapping[str, Mapping[str, Series]]


def read_run(path: Path) -> RunFolder:
    """Return what a run folder holds.

    Raises:
        BadConfig: there is no such folder, or nothing in it that a report could show.
        BadMedia: a file in it is not what its name says.
    """
    if not path.is_dir():
        raise BadConfig(f"run={path} is not a folder; give the folder of a finished run, such as run=runs/demo")
    metrics = _read_json(path / "metrics.json", dict)
    rows = _mappings(metrics.pop("rows", []), path / "metrics.json", "rows")
    bars = metrics.pop("bars", {})
    if not isinstance(bars, dict) or not all(is_number(bar) for bar in bars.values()):
        raise BadMedia(f"{path}/metrics.json: bars must map names of figures to numbers, got {bars}; evaluate again")
    steps = _mappings(_read_json(path / "steps.json", list), path / "steps.json", "steps")
    for step, measure in product(steps, ("seconds", "peak_memory_mb")):
        if not (step.get(measure) is None or is_number(step[measure])):
            raise BadMedia(
                f"{path}/steps.json: {measure} must be a number, got {step[measure]!r}; correct it or run the step again"
            )
    stages = {name: log for name, log in _logs(path).items() if log}
    if not (metrics or rows or steps or stages):
        raise BadConfig(
            f"{path} holds nothing to report: no metrics.json, no steps.json and no <stage>/metrics.csv with figures; "
            "train or evaluate with this folder as run_dir= first"
        )
    return RunFolder(path, metrics, bars, rows, steps, stages)


def is_number(value: Any) -> bool:
    """Return whether a value read from JSON is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _logs(path: Path) -> dict[str, dict[str, Series]]:
    # A single stage trained by hand keeps its log at the top of its own folder.
    folders = {folder.name: folder for folder in path.iterdir() if log_files(folder)}
    if log_files(path):
        folders[path.resolve().name] = path
    rank = {name: place for place, name in enumerate(STAGE_ORDER)}
    return {
        name: whole_log(folders[name]) for name in sorted(folders, key=lambda name: (rank.get(name, len(rank)), name))
    }


def log_files(folder: Path) -> list[Path]:
    """Return the parts of a stage's log, oldest first: when it was resumed, the part before was moved to `metrics.<number>.csv`."""
    return [*sorted(folder.glob("metrics.*.csv")), *folder.glob("metrics.csv")]


def whole_log(folder: Path) -> dict[str, Series]:
    """Return what a stage logged over all parts of its run; steps that were done again when it was resumed are those of the later part.

    Raises: BadMedia, if a part is not a log.
    """
    whole: dict[str, Series] = {}
    for part in filter(None, (read_csv_log(file) for file in log_files(folder))):
        resumed_at = min(steps[0] for steps, _ in part.values())
        kept = {
            name: (steps[steps < resumed_at], values[steps < resumed_at]) for name, (steps, values) in whole.items()
        }
        nothing = (np.empty(0), np.empty(0))
        for name, series in part.items():
            former = kept.get(name, nothing)
            kept[name] = (np.concatenate([former[0], series[0]]), np.concatenate([former[1], series[1]]))
        whole = {name: series for name, series in kept.items() if len(series[0])}
    return whole


def _read_json(path: Path, kind: type) -> Any:
    if not path.is_file():
        return kind()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadMedia(f"{path} is not JSON ({error}); run the step that writes it again") from error
    if not isinstance(content, kind):
        raise BadMedia(
            f"{path} must hold a {kind.__name__}, holds a {type(content).__name__}; run the step that writes it again"
        )
    return content


def _mappings(items: Any, path: Path, name: str) -> tuple[Row, ...]:
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise BadMedia(f"{path}: {name} must be a list of mappings; run the step that writes it again")
    return tuple(items)
