"""Training curves of one stage, from the csv that Lightning's CSVLogger writes, as SVG for the page itself."""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from lipsync_lightning.errors import BadMedia

Series = tuple[np.ndarray, np.ndarray]  # steps and values, (P,) each

PANEL_INCHES = (5.4, 3.2)
SMOOTHED_SHARE = 20  # the smoothed curve averages over a twentieth of the points
LOG_SPREAD = 30.0  # losses that fall by more than this factor are drawn on a logarithmic axis
VALIDATION_SCORES = ("val/accuracy", "val/auc", "val/offset_accuracy")
INK = "#010203"  # stands for the page's text colour, which only the browser knows
COLOURS = ("#3b7dd8", "#e0803a", "#2f9e6e", "#b65fc9", "#d1495b", "#8a8f98")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


def read_csv_log(path: Path) -> dict[str, Series]:
    """Return each logged value's steps and values; rows in which it was not logged are left out, and so is an unfinished last line.

    Raises: BadMedia, if the file has no step column or holds something that is not a number.
    """
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    lines = path.read_text().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()  # of a run that is writing it right now
    if not lines:
        return {}
    reader = csv.DictReader(lines)
    if "step" not in (reader.fieldnames or []):
        raise BadMedia(
            f"{path} has no column 'step' (has {reader.fieldnames}); train with the csv logger, or delete the file"
        )
    for row in reader:
        try:
            for name, value in row.items():
                if name not in ("step", "epoch") and value:
                    points[name].append((float(row["step"]), float(value)))
        except (TypeError, ValueError) as error:
            raise BadMedia(
                f"{path}, line {reader.line_num}, is not a row of numbers ({error}); delete that line"
            ) from error
    return {name: (np.array([s for s, _ in each]), np.array([v for _, v in each])) for name, each in points.items()}


def stage_curves(series: Mapping[str, Series], salt: str) -> list[str]:
    """Return the stage's panels as inline SVG: its loss, the loss's terms, and its validation scores, where logged.

    Args:
        salt: makes the ids inside differ from those of other stages on the same page.
    """
    terms = {name.removeprefix("train/loss_"): each for name, each in series.items() if name.startswith("train/loss_")}
    scores = {name.removeprefix("val/"): series[name] for name in VALIDATION_SCORES if name in series}
    panels: list[str] = []
    if "train/loss" in series or "val/loss" in series:
        panels.append(
            panel(
                f"{salt}-loss", "loss", lambda axes: draw_loss(axes, series.get("train/loss"), series.get("val/loss"))
            )
        )
    if len(terms) > 1:
        panels.append(
            panel(f"{salt}-terms", "terms of the training loss, smoothed", lambda axes: _draw_terms(axes, terms))
        )
    if scores:
        panels.append(panel(f"{salt}-scores", "held-out clips", lambda axes: _draw_scores(axes, scores)))
    return panels


def smoothed(values: np.ndarray) -> np.ndarray:
    """Return the moving average of (P,) values over a twentieth of them, over what there is near the ends."""
    window = np.ones(min(len(values), 2 * (len(values) // (2 * SMOOTHED_SHARE)) + 1))
    return np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")


def draw_loss(axes: Axes, training: Series | None, heldout: Series | None) -> None:
    """Draw a loss as it was on training batches and on held-out clips, whichever was logged."""
    drawn = []
    if training is not None:
        steps, values = training
        axes.plot(steps, values, color=COLOURS[0], alpha=0.25, linewidth=0.8)
        axes.plot(steps, smoothed(values), color=COLOURS[0], linewidth=1.8, label="training, smoothed")
        drawn.append(values)
    if heldout is not None:
        axes.plot(*heldout, color=COLOURS[1], marker="o", markersize=3, linewidth=1.5, label="held out")
        drawn.append(heldout[1])
    choose_scale(axes, np.concatenate(drawn))


def _draw_terms(axes: Axes, terms: Mapping[str, Series]) -> None:
    for name, (steps, values) in terms.items():
        axes.plot(steps, smoothed(values), linewidth=1.6, label=name)
    choose_scale(axes, np.concatenate([values for _, values in terms.values()]))


def _draw_scores(axes: Axes, scores: Mapping[str, Series]) -> None:
    for name, (steps, values) in scores.items():
        axes.plot(steps, values, marker="o", markersize=3, linewidth=1.6, label=name)
    axes.axhline(0.5, color=INK, alpha=0.8, linewidth=1.2, linestyle="--", label="chance")


def choose_scale(axes: Axes, values: np.ndarray) -> None:
    """Make the vertical axis logarithmic where positive values differ by more than `LOG_SPREAD`."""
    finite = values[np.isfinite(values)]
    if len(finite) and finite.min() > 0 and finite.max() / finite.min() > LOG_SPREAD:
        axes.set_yscale("log")


def panel(salt: str, title: str, draw: Callable[[Axes], None], along: str = "step") -> str:
    """Return what `draw` draws as inline SVG; `salt` makes its ids differ from those of other panels on the page."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": salt}):
        figure = Figure(figsize=PANEL_INCHES, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel(along)
        axes.grid(alpha=0.15, color=INK)
        axes.legend(fontsize=9)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue(), salt, title)


def _inline(svg: str, salt: str, title: str) -> str:
    """Return the SVG as part of a page: no prolog, no addresses, sized by the page, in the page's text colour."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    view_box = re.search(r'viewBox="[^"]*"', svg)
    assert view_box, "matplotlib gives every SVG a viewBox"
    svg = re.sub(r"<svg[^>]*>", f'<svg {view_box.group()} role="img" aria-label="{title}">', svg, count=1)
    # matplotlib names groups figure_1, axes_1, ...: the same in every figure.
    svg = re.sub(r'(<g id=")', rf"\g<1>{salt}-", svg)
    return svg.replace(INK, "currentColor")
