"""What a training logged, read from its csv files and drawn as SVG."""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.evaluation.metrics import WATCHED, metric, place
from lipsync_lightning.evaluation.page import Curve

Series = np.ndarray  # (2, P): steps and values

SMOOTHED_SHARE = 20  # the smoothed curve averages over a twentieth of the points
FEWEST_SMOOTHED = 60  # points; fewer are drawn as they are
MOST_DRAWN = 400  # points of a curve
LOG_SPREAD = 30.0  # values that differ by more than this factor are drawn on a logarithmic axis
INK = "#010203"  # stands for the page's text colour, which only the browser knows
COLOURS = ("#3b7dd8", "#e0803a", "#2f9e6e", "#b65fc9", "#d1495b", "#8a8f98")
_STYLE: dict[Any, Any] = {
    **{"svg.fonttype": "none", "font.size": 10, "legend.frameon": False, "legend.fontsize": 8},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left", "axes.titlesize": 10},
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **{"axes.titleweight": "bold", "axes.grid": True, "grid.color": INK, "grid.alpha": 0.15},
}


def log_files(run: Path) -> list[Path]:
    """Return the parts of a run's log, oldest first: a resumed run moves the part before to `metrics.<number>.csv`."""
    return [*sorted(run.glob("metrics.*.csv")), *run.glob("metrics.csv")]


def whole_log(run: Path) -> dict[str, Series]:
    """Return each logged value's steps and values over all parts of a run.

    Steps that a resumed run did again are those of the later part; a last line that is being written is left out.
    Raises: BadMedia, if a part is not a log.
    """
    rows: list[dict[str, float]] = []
    for path in log_files(run):
        whole_lines = path.read_text().rpartition("\n")[0].splitlines()
        try:
            part = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(whole_lines)]
            resumed_at = min((row["step"] for row in part), default=np.inf)
        except (KeyError, TypeError, ValueError) as error:
            raise BadMedia(f"{path} is not a log of numbers by step ({error!r}); correct it or delete it") from error
        rows = [row for row in rows if row["step"] < resumed_at] + part
    names = dict.fromkeys(name for row in rows for name in row if name not in ("step", "epoch"))
    return {name: np.array([(row["step"], row[name]) for row in rows if name in row]).T for name in names}


def drawn_log(log: Mapping[str, Series], run: str = "") -> tuple[list[Curve], list[Curve]]:
    """Return a drawing for each panel of logged values, so that none is left out: those to watch, and the others.

    Args: run: goes in front of the titles, which must differ on one page.
    """
    panels: dict[str, list[str]] = defaultdict(list)
    for name in sorted(log, key=lambda name: (place(name), name)):
        panels[metric(name).panel or metric(name).label].append(name)
    watched, others = [], []
    for title, names in panels.items():

        def draw(axes: Axes, names: list[str] = names) -> None:
            for name, colour in zip(names, COLOURS * len(names), strict=False):
                _draw_series(axes, metric(name).label, log[name], colour)
            chance = metric(names[0]).chance
            if chance is not None:
                axes.axhline(chance, color=INK, alpha=0.8, linewidth=1.2, linestyle="--", label="chance")
            values = np.concatenate([log[name][1] for name in names])
            finite = values[np.isfinite(values)]
            if len(finite) and finite.min() > 0 and finite.max() / finite.min() > LOG_SPREAD:
                axes.set_yscale("log")

        svg = panel(f"{run}: {title}" if run else title, draw)
        curve = Curve(svg=svg, caption=" ".join(dict.fromkeys(metric(name).meaning for name in names)))
        (watched if title in WATCHED else others).append(curve)
    return watched, others


def _draw_series(axes: Axes, label: str, series: Series, colour: str) -> None:
    steps, values = series
    if len(steps) < FEWEST_SMOOTHED:
        axes.plot(steps, values, color=colour, marker="o", markersize=3, linewidth=1.6, label=label)
        return
    drawn = np.unique(np.linspace(0, len(steps) - 1, MOST_DRAWN).round().astype(int))
    axes.plot(steps[drawn], values[drawn], color=colour, alpha=0.25, linewidth=0.8)
    window = np.ones(2 * (len(values) // (2 * SMOOTHED_SHARE)) + 1)
    smoothed = np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")
    axes.plot(steps[drawn], smoothed[drawn], color=colour, linewidth=1.8, label=f"{label}, smoothed")


def panel(title: str, draw: Callable[[Axes], None], along: str = "step") -> Markup:
    """Return what `draw` draws as SVG for a page, in the page's text colour; titles must differ on one page."""
    salt = re.sub(r"\W+", "-", title)
    with mpl.rc_context({**_STYLE, "svg.hashsalt": salt}):
        figure = Figure(figsize=(5.0, 2.9), layout="constrained")
        axes = figure.subplots()
        axes.ticklabel_format(useOffset=False)
        draw(axes)
        axes.set(title=title, xlabel=along)
        axes.legend()
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue().replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    (view_box,) = re.findall(r'<svg[^>]*(viewBox="[^"]*")[^>]*>', svg)  # the page decides how large it is
    drawing = svg[svg.index(">") + 1 :].replace('<g id="', f'<g id="{salt}-')  # figure_1, …: the same in every figure
    return Markup(f'<svg {view_box} role="img" aria-label="{escape(title)}">{drawing}')
