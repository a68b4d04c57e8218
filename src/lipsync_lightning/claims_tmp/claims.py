"""Runs of several seeds compared: tables with mean and spread, and whether what was expected is there."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from lipsync_lightning.errors import BadConfig, MissingWeights
from lipsync_lightning.evaluation.run_folder import whole_log

COLUMN_NAMES = {
    "sync_confidence": "sync confidence, other speech",
    "sync_confidence_shuffled": "the same, shuffled speech",
    "mouth_correlation": "mouth follows new speech",
    "mouth_correlation_old": "mouth follows old speech",
    "mouth_correlation_chance": "old and new speech by chance",
    "mouth_correlation_shuffled": "mouth follows shuffled speech",
    "psnr": "PSNR of the mouth (dB)",
    "ssim": "SSIM of the mouth",
    "temporal_error": "temporal error (grey levels)",
    "val/auc": "AUC",
    "val/accuracy": "accuracy",
    "val/offset_accuracy": "offset accuracy",
    "val/psnr_mouth": "PSNR of the mouth (dB)",
    "val/sync_generated": "sync score",
}
Curve = list[tuple[int, float]]  # (step, value)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training of one experiment with one seed."""

    scores: Mapping[str, float]  # what `judge` measured, and the last value of everything validation logged
    curves: Mapping[str, Curve]


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """That a figure is larger for one experiment than for another."""

    says: str
    figure: str
    more: str
    less: str


def read_run(folder: Path, scores_file: str) -> Run:
    """Return what a run left behind: its log over all parts, and its scores.

    Raises: MissingWeights, if it left nothing; BadMedia, if its log is none.
    """
    logged = whole_log(folder)
    curves = {
        name: [(int(step), float(value)) for step, value in zip(*series, strict=True)]
        for name, series in logged.items()
        if name.startswith("val/")
    }
    scores = {name: curve[-1][1] for name, curve in curves.items()}
    judged = folder / scores_file
    if judged.is_file():
        scores |= {
            name: value for name, value in json.loads(judged.read_text()).items() if isinstance(value, int | float)
        }
    if not scores:
        raise MissingWeights(f"{folder} holds no finished run; the same command trains what is missing")
    return Run(scores=scores, curves=curves)


def verdict(expectation: Expectation, runs: Mapping[str, Sequence[Run]]) -> tuple[str, str]:
    """Return a word and the differences behind it, seed by seed.

    "seen": the figure is larger for every seed. "opposite": smaller for every seed. "not seen": some this way, some that way.
    Raises: BadConfig, if something compared is no row, or was not measured for all seeds.
    """
    more, less = (_figures(expectation.figure, row, runs) for row in (expectation.more, expectation.less))
    differences = [one - other for one, other in zip(more, less, strict=True)]
    word = "seen" if min(differences) > 0 else "opposite" if max(differences) < 0 else "not seen"
    return word, ", ".join(f"{difference:+.3f}" for difference in differences).replace("-", "−")


def _figures(figure: str, row: str, runs: Mapping[str, Sequence[Run]]) -> list[float]:
    if row not in runs or any(figure not in run.scores for run in runs[row]):
        known = sorted(runs[row][0].scores) if row in runs else sorted(runs)
        raise BadConfig(f"a claim expects something of {figure} of {row}, which nobody measured; there are {known}")
    return [run.scores[figure] for run in runs[row]]


def with_spread(values: Sequence[float]) -> str:
    """Return mean ± sample standard deviation, or the value alone where there is one."""
    if len(values) < 2:
        return f"{values[0]:.3f}".replace("-", "−")
    return f"{mean(values):.3f} ± {stdev(values):.3f}".replace("-", "−")


def table(rows: Mapping[str, str], columns: Sequence[str], runs: Mapping[str, Sequence[Run]]) -> list[str]:
    """Return a Markdown table; a dash where runs have no such figure. Args: rows: label -> experiment."""
    lines = [
        f"| | {' | '.join(COLUMN_NAMES.get(column, column) for column in columns)} |",
        f"| --- |{' ---: |' * len(columns)}",
    ]
    for label, experiment in rows.items():
        cells = []
        for column in columns:
            values = [run.scores[column] for run in runs[experiment] if column in run.scores]
            cells.append(with_spread(values) if values else "–")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def expectations_table(expectations: Sequence[Expectation], runs: Mapping[str, Sequence[Run]]) -> list[str]:
    """Return a Markdown table of what was expected and whether it is there."""
    lines = ["| expected | here | differences by seed |", "| --- | --- | --- |"]
    for expectation in expectations:
        word, differences = verdict(expectation, runs)
        name = COLUMN_NAMES.get(expectation.figure, expectation.figure)
        lines.append(f"| {expectation.says} | **{word}** | {differences} ({name}) |")
    return lines


def first_step_at(curve: Curve, level: float) -> int | None:
    """Return the first step at which a curve is at `level` or above, None if it never is."""
    return next((step for step, value in curve if value >= level), None)


def steps_table(rows: Mapping[str, str], names: Sequence[str], runs: Mapping[str, Sequence[Run]]) -> list[str]:
    """Return a Markdown table of the steps each experiment needs to where the slowest of them ended, seed by seed.

    Raises: BadConfig, if one of them did not log it.
    """
    lines = [
        f"| steps to the level that all reach | {' | '.join(COLUMN_NAMES.get(n, n) for n in names)} |",
        f"| --- |{' ---: |' * len(names)}",
    ]
    levels = {name: _level_all_reach(name, list(rows.values()), runs) for name in names}
    for label, experiment in rows.items():
        cells = []
        for name in names:
            steps = [first_step_at(run.curves[name], levels[name]) for run in runs[experiment]]
            cells.append(", ".join("–" if step is None else str(step + 1) for step in steps))
        lines.append(f"| {label} | {' | '.join(cells)} |")
    lines.append(f"| *level* | {' | '.join(f'{levels[name]:.3f}' for name in names)} |")
    return lines


def _level_all_reach(name: str, experiments: Sequence[str], runs: Mapping[str, Sequence[Run]]) -> float:
    without = [each for each in experiments for run in runs[each] if name not in run.curves]
    if without:
        raise BadConfig(f"{', '.join(without)} logged no {name}; there is no race to run")
    return min(max(value for _, value in run.curves[name]) for each in experiments for run in runs[each])
