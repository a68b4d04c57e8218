"""Pictures of compared runs: curves over steps, and one figure against another."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import numpy as np
from matplotlib.figure import Figure

from lipsync_lightning.claims_tmp.claims import COLUMN_NAMES, Run

PANEL_INCHES = (5.0, 3.4)
DOTS_PER_INCH = 100


def save_curves(path: Path, rows: Mapping[str, str], names: Sequence[str], runs: Mapping[str, Sequence[Run]]) -> Path:
    """Write one panel for each logged value: the mean over seeds by step, and the range of the seeds as a band."""
    figure = Figure(figsize=(PANEL_INCHES[0] * len(names), PANEL_INCHES[1]), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for panel, name in zip(panels, names, strict=True):
        for label, experiment in rows.items():
            curves = [run.curves[name] for run in runs[experiment] if name in run.curves]
            if not curves:
                continue
            steps = sorted(set.intersection(*({step for step, _ in curve} for curve in curves)))
            values = np.array([[dict(curve)[step] for step in steps] for curve in curves])
            shown = [step + 1 for step in steps]
            (line,) = panel.plot(shown, values.mean(axis=0), label=label, marker=".")
            panel.fill_between(
                shown, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.15, linewidth=0
            )
        panel.set(xlabel="optimizer steps", ylabel=COLUMN_NAMES.get(name, name))
        panel.grid(alpha=0.3)
    panels[-1].legend(fontsize=7)
    return _saved(figure, path)


def save_scatter(path: Path, rows: Mapping[str, str], across: str, up: str, runs: Mapping[str, Sequence[Run]]) -> Path:
    """Write one figure against another: a dot for each seed, the row's name at their mean."""
    figure = Figure(figsize=(PANEL_INCHES[0] * 1.4, PANEL_INCHES[1] * 1.3), layout="constrained")
    panel = figure.subplots()
    for number, (label, experiment) in enumerate(rows.items()):
        xs, ys = ([run.scores[name] for run in runs[experiment]] for name in (across, up))
        panel.scatter(xs, ys, s=18, alpha=0.7, color=f"C{number}")
        panel.annotate(label, (mean(xs), mean(ys)), fontsize=7, color=f"C{number}")
    panel.set(xlabel=COLUMN_NAMES.get(across, across), ylabel=COLUMN_NAMES.get(up, up))
    panel.grid(alpha=0.3)
    return _saved(figure, path)


def _saved(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})
    return path
