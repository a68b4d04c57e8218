"""Every logged value of a training run as curves, and SyncNet's similarities as histograms."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from lipsync_lightning.evaluation.curves import COLOURS, INK, Series, choose_scale, draw_loss, panel, smoothed
from lipsync_lightning.evaluation.log_names import Group, groups_of
from lipsync_lightning.evaluation.training_run import Histogram, first_middle_last

_SPREAD, _MEAN = "_std", "_mean"
_GRADIENT_NORM = "train/gradient_norm"
_NOISY = (_GRADIENT_NORM, "vitals/windows_per_second", "vitals/data_wait_share", "vitals/mfu")
_BIN_WIDTH = 0.05
_KIND_COLOURS = {"matching": COLOURS[2], "foreign": COLOURS[4]}


class Panel(NamedTuple):
    """A picture for the page, and how to read it."""

    svg: Markup
    meaning: str


def curve_panels(log: Mapping[str, Series]) -> list[Panel]:
    """Return a panel for each group of logged values, so that none is left out."""
    return [
        Panel(
            Markup(panel(f"curve-{place}", group.title, lambda axes, group=group: _draw(axes, group, log))),
            group.meaning,
        )
        for place, group in enumerate(groups_of(log))
    ]


def histogram_panels(histograms: Sequence[Histogram]) -> list[Panel]:
    """Return the similarities of the first, the middle and the last validation, on one scale."""
    picked = first_middle_last(histograms)
    seen = np.any([counts > 0 for each in picked for counts in each.counts.values()], axis=0) if picked else np.empty(0)
    if not seen.any():
        return []
    shown = slice(int(seen.argmax()), len(seen) - int(seen[::-1].argmax()))
    return [
        Panel(
            Markup(
                panel(
                    f"similarity-{each.step}",
                    f"step {each.step}",
                    lambda axes, each=each: _bars(axes, each, shown),
                    "similarity",
                )
            ),
            f"{', '.join(f'{counts.sum()} {kind}' for kind, counts in each.counts.items())} pairs.",
        )
        for each in picked
    ]


def _draw(axes: Axes, group: Group, log: Mapping[str, Series]) -> None:
    if group.is_loss:
        draw_loss(axes, *(log.get(name) for name in group.names))
        return
    axes.ticklabel_format(useOffset=False)
    logged = {name: log[name] for name in group.names if name in log}
    for place, name in enumerate(name for name in logged if not name.endswith(_SPREAD)):
        _draw_value(axes, name, logged, COLOURS[place % len(COLOURS)])
    if group.chance is not None:
        axes.axhline(group.chance, color=INK, alpha=0.8, linewidth=1.2, linestyle="--", label="chance")
    if _GRADIENT_NORM in logged:
        choose_scale(axes, logged[_GRADIENT_NORM][1])


def _draw_value(axes: Axes, name: str, logged: Mapping[str, Series], colour: str) -> None:
    steps, values = logged[name]
    label = name.partition("/")[2].removesuffix(_MEAN) or name
    if name in _NOISY:
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(steps, smoothed(values), color=colour, linewidth=1.8, label=f"{label}, smoothed")
    else:
        marker = "o" if name.startswith("val/") else None
        axes.plot(steps, values, color=colour, marker=marker, markersize=3, linewidth=1.6, label=label)
    spread = logged.get(name.removesuffix(_MEAN) + _SPREAD)
    if spread is not None:
        axes.fill_between(steps, values - spread[1], values + spread[1], color=colour, alpha=0.15)


def _bars(axes: Axes, histogram: Histogram, shown: slice) -> None:
    centres = histogram.centres[shown]
    for kind, counts in histogram.counts.items():
        axes.bar(
            centres,
            counts[shown] / counts.sum(),
            width=_BIN_WIDTH,
            color=_KIND_COLOURS.get(kind),
            alpha=0.55,
            label=kind,
        )
    axes.set_xlim(centres[0] - _BIN_WIDTH, centres[-1] + _BIN_WIDTH)
    axes.set_ylabel("share of pairs")
