"""The report of one training run as one HTML page that needs nothing beside itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lipsync_lightning.evaluation.curves import Series
from lipsync_lightning.evaluation.headlines import Headline, number
from lipsync_lightning.evaluation.log_names import groups_of
from lipsync_lightning.evaluation.old_page import ClipCard, Table, data_address, filled
from lipsync_lightning.evaluation.training_curves import curve_panels, histogram_panels
from lipsync_lightning.evaluation.training_run import Row, TrainingRun, first_middle_last
from lipsync_lightning.media.strips import png, read_png, stacked, strip_rows

SCORE_NAMES = {
    "sync_generated": "sync score",
    "sync_real": "of the real lips",
    "sync_control": "with another clip's sound",
    "psnr_mouth": "PSNR of the mouth (dB)",
}
_ROWS_OF_A_STRIP = 3  # real, masked, generated


def render_training(run: TrainingRun) -> str:
    """Return the page of a training run. Raises: BadMedia, if a picture that is to be shown is none."""
    steps = list(run.samples)
    compared = first_middle_last(steps)
    return filled(
        "training.html.j2",
        name=run.path.resolve().name,
        num_resumed=max(run.num_parts - 1, 0),
        headlines=newest(run.log),
        curves=curve_panels(run.log),
        samples_step=steps[-1] if steps else None,
        samples=[sample_card(row, run.path) for row in run.samples[steps[-1]]] if steps else [],
        scores=scores_table(run.samples),
        compared_steps=_listed([f"step {step}" for step in compared]),
        comparisons=comparisons(run, compared) if len(compared) > 1 else [],
        histograms=histogram_panels(run.histograms),
        config=run.config,
    )


def newest(log: Mapping[str, Series]) -> list[Headline]:
    """Return how far a run has come, and the newest value of what matters most."""
    if not log:
        return []
    last_step = int(max(steps[-1] for steps, _ in log.values()))
    found = [Headline("Step", str(last_step), "The last one of which anything was logged.", "", "")]
    for group in groups_of(log):
        if group.is_headline:
            name = next(name for name in group.names if name in log)
            label = group.title if len(group.names) == 1 else name.partition("/")[2].replace("_", " ")
            found.append(Headline(label, _short(float(log[name][1][-1])), group.meaning, "", ""))
    return found


def sample_card(row: Row, run: Path) -> ClipCard:
    """Return one clip of the last validation with its files inlined."""
    named = {kind: run / str(row[kind]) for kind in ("video", "strip")}
    present = {kind: path.read_bytes() for kind, path in named.items() if path.is_file()}
    return ClipCard(
        title=str(row["id"]),
        caption="",
        figures=_scores(row),
        video=data_address(present["video"], "video/mp4") if "video" in present else "",
        strip=data_address(present["strip"], "image/png") if "strip" in present else "",
        missing=", ".join(str(row[kind]) for kind in named if kind not in present),
    )


def scores_table(samples: Mapping[int, Sequence[Row]]) -> Table | None:
    """Return the mean of each score at each validation, or None without samples."""
    names = [name for name in SCORE_NAMES if any(row[name] is not None for rows in samples.values() for row in rows)]
    lines = [
        [str(step), *(number(_mean([row[name] for row in rows])) for name in names)] for step, rows in samples.items()
    ]
    return Table(["step", *(SCORE_NAMES[name] for name in names)], lines, 0, []) if lines and names else None


def comparisons(run: TrainingRun, steps: Sequence[int]) -> list[ClipCard]:
    """Return what became of each clip of the last validation from one of these steps to the next: real frames, then generated ones."""
    cards = []
    for last in run.samples[steps[-1]]:
        same_clip = [
            row
            for step in steps
            for row in run.samples[step]
            if (row["number"], row["id"]) == (last["number"], last["id"])
        ]
        found = [row for row in same_clip if (run.path / str(row["strip"])).is_file()]
        strips = [strip_rows(read_png(run.path / str(row["strip"])), _ROWS_OF_A_STRIP) for row in found]
        if len({strip[0].shape for strip in strips}) == 1 and len(strips) > 1:
            picture = stacked([strips[-1][0], *(generated for _, _, generated in strips)])
            figures = " · ".join(
                f"step {row['step']}: {number(row['sync_generated'])}"
                for row in found
                if row["sync_generated"] is not None
            )
            title = str(last["id"])
            cards.append(
                ClipCard(
                    title,
                    "",
                    f"Sync score: {figures}" if figures else "",
                    "",
                    data_address(png(picture), "image/png"),
                    "",
                )
            )
    return cards


def _scores(row: Row) -> str:
    return " · ".join(f"{SCORE_NAMES[name]} {number(row[name])}" for name in SCORE_NAMES if row[name] is not None)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _short(value: float) -> str:
    return number(int(value)) if value.is_integer() else number(value, 3 if abs(value) < 10 else 1)


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
