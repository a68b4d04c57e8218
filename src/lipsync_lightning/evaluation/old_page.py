"""The report as one HTML page that needs nothing beside itself."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lipsync_lightning.evaluation.curves import stage_curves
from lipsync_lightning.evaluation.headlines import headlines, number
from lipsync_lightning.evaluation.run_folder import Row, RunFolder, is_number

COLUMN_NAMES = {
    "mouth_correlation": "mouth correlation",
    "mouth_correlation_old": "with old mouth",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "sync_confidence": "sync confidence",
    "av_offset": "offset (frames)",
}
_DESCRIPTION = ("system", "condition", "person", "speech")
_FILES = ("video", "strip")


class Table(NamedTuple):
    """Cells ready to be shown."""

    columns: list[str]
    rows: list[list[str]]
    num_labels: int  # leading columns that hold words
    total: list[str]  # a last row, empty where there is none


class ClipCard(NamedTuple):
    """One generated clip to look at."""

    title: str
    caption: str
    figures: str
    video: str  # data address, empty where there is none
    strip: str
    missing: str  # files that were named and are not there


def render(run: RunFolder) -> str:
    """Return the page of a run."""
    stages = {
        name: [Markup(svg) for svg in stage_curves(log, f"stage-{place}")]
        for place, (name, log) in enumerate(run.stages.items())
    }
    return filled(
        "report.html.j2",
        name=run.path.resolve().name,
        headlines=headlines(run.metrics, run.bars),
        means=means_table(run.rows),
        every_clip=rows_table(run.rows),
        clips=[clip_card(row, run.path) for row in run.rows if any(row.get(kind) for kind in _FILES)],
        stages={name: panels for name, panels in stages.items() if panels},
        steps=steps_table(run.steps),
    )


def filled(template: str, **content: Any) -> str:
    """Return a template of this folder with its content; text in it cannot become markup, `Markup` is taken as it is."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**content)


def means_table(rows: Sequence[Row]) -> Table | None:
    """Return the mean of each measure for each system and condition, or None without rows."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((str(row.get("system", "–")), str(row.get("condition", "–"))), []).append(row)
    measures = _measures(rows)
    lines = [
        [*names, str(len(members)), *(number(_mean([row.get(measure) for row in members])) for measure in measures)]
        for names, members in groups.items()
    ]
    columns = ["system", "condition", "clips", *(COLUMN_NAMES.get(measure, measure) for measure in measures)]
    return Table(columns, lines, 2, []) if rows else None


def rows_table(rows: Sequence[Row]) -> Table | None:
    """Return every clip's measures, or None without rows."""
    labels = [name for name in _DESCRIPTION if any(name in row for row in rows)]
    measures = _measures(rows)
    lines = [[number(row.get(name)) for name in (*labels, *measures)] for row in rows]
    return (
        Table([*labels, *(COLUMN_NAMES.get(measure, measure) for measure in measures)], lines, len(labels), [])
        if rows
        else None
    )


def steps_table(steps: Sequence[Row]) -> Table | None:
    """Return what was run, how long it took and how much memory it needed at most, or None without steps."""
    lines = [
        [
            str(step.get("step", "–")),
            str(step.get("command", "–")),
            duration(step.get("seconds")),
            number(step.get("peak_memory_mb"), 0),
        ]
        for step in steps
    ]
    seconds = [step["seconds"] for step in steps if step.get("seconds") is not None]
    peaks = [step["peak_memory_mb"] for step in steps if step.get("peak_memory_mb") is not None]
    total = ["total", "", duration(sum(seconds)), number(max(peaks, default=None), 0)]
    return Table(["step", "command", "time", "peak memory (MB)"], lines, 2, total) if steps else None


def clip_card(row: Row, run: Path) -> ClipCard:
    """Return one clip with its files inlined."""
    named = {kind: str(row[kind]) for kind in _FILES if row.get(kind)}
    present = {kind: run / file for kind, file in named.items() if (run / file).is_file()}
    person, speech = row.get("person", "unknown person"), row.get("speech", "unknown speech")
    measures = [f"{COLUMN_NAMES[name]} {number(row[name])}" for name in COLUMN_NAMES if row.get(name) is not None]
    return ClipCard(
        title=" · ".join(str(row[name]) for name in ("system", "condition") if row.get(name)),
        caption=f"Face of {person}, speech of {speech}",
        figures=" · ".join(measures),
        video=data_address(present["video"].read_bytes(), "video/mp4") if "video" in present else "",
        strip=data_address(present["strip"].read_bytes(), "image/png") if "strip" in present else "",
        missing=", ".join(file for kind, file in named.items() if kind not in present),
    )


def duration(seconds: float | None) -> str:
    """Return seconds as people say them: 8.4 s, 3 min 20 s, 2 h 5 min."""
    if seconds is None:
        return "–"
    if seconds < 59.95:  # what would round to 60.0 is a minute
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _measures(rows: Sequence[Row]) -> list[str]:
    """Columns that hold numbers, known ones first."""
    found = {name: None for row in rows for name, value in row.items() if is_number(value) and name not in _DESCRIPTION}
    return [name for name in COLUMN_NAMES if name in found] + [name for name in found if name not in COLUMN_NAMES]


def _mean(values: Sequence[Any]) -> float | None:
    numbers = [value for value in values if is_number(value)]
    return sum(numbers) / len(numbers) if numbers else None


def data_address(content: bytes, media_type: str) -> str:
    """Return a file's content as an address of itself."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
