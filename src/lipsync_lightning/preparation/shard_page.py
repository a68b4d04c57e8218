"""What a folder of shards holds, in lines for the terminal and as one HTML page that needs nothing beside itself."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from numpy.typing import NDArray

from lipsync_lightning.evaluation.curves import COLOURS, panel
from lipsync_lightning.evaluation.headlines import Headline, number
from lipsync_lightning.evaluation.old_page import Table, data_address, filled
from lipsync_lightning.evaluation.training_curves import Panel
from lipsync_lightning.files import write_atomically
from lipsync_lightning.media.strips import png
from lipsync_lightning.preparation.ledger import FAILED, KEPT, REJECTED
from lipsync_lightning.preparation.shard_survey import ShardSurvey, SplitSurvey

FOLDER = "inspection"  # below the shards
_SCORE_NAMES = {
    "sync_confidence": ("sync confidence", "On the judge's own scale; higher is more surely in sync."),
    "sync_offset": (
        "sync offset (frames)",
        "By which the sound came early in the source; kept clips were corrected to 0 by it.",
    ),
    "sync_distance": ("sync distance", "Between lips and sound at their best offset; lower is closer."),
    "visual_quality": ("visual quality", "On the judge's own scale; higher looks better."),
}
_VERDICT_COLOURS = {KEPT: COLOURS[2], REJECTED: COLOURS[4]}
_MOST_BINS = 30
_MOST_REASONS = 12
_MOST_IDS = 4  # named of clips with the same sound, and of sources with the same file
_MOST_GROUPS = 5  # of sources with the same file


def write_inspection(survey: ShardSurvey) -> Path:
    """Write contact sheet and page below the shards, in a folder of their own, and return the page's path."""
    if survey.sheet.picture is not None:
        write_atomically(survey.folder / FOLDER / "contact_sheet.png", png(survey.sheet.picture))
    return write_atomically(survey.folder / FOLDER / "index.html", render_survey(survey).encode())


def terminal_lines(survey: ShardSurvey) -> list[str]:
    """Return what a folder of shards holds as plain text: aligned tables, remarks, and a line for every fault."""
    tables = [table for table in (splits_table(survey), reasons_table(survey), scores_table(survey)) if table]
    lines = [line for table in tables for line in [*aligned(table), ""]]
    return [*lines, *remarks(survey), *(f"BROKEN {line}" for line in fault_lines(survey))]


def render_survey(survey: ShardSurvey) -> str:
    """Return the page of a folder of shards."""
    picture = survey.sheet.picture
    return filled(
        "shards.html.j2",
        name=survey.folder.resolve().name,
        headlines=shard_headlines(survey),
        remarks=remarks(survey),
        faults=fault_lines(survey),
        splits=splits_table(survey),
        reasons=reasons_table(survey),
        scores=scores_table(survey),
        lengths=length_panel(survey.splits) if survey.num_clips else None,
        histograms=score_panels(survey),
        sheet="" if picture is None else data_address(png(picture), "image/png"),
        sheet_ids=survey.sheet.ids,
        num_columns=survey.sheet.num_columns,
    )


def shard_headlines(survey: ShardSurvey) -> list[Headline]:
    """Return the figures at the top of the page."""
    splits = survey.splits
    found = [
        Headline("Clips", str(survey.num_clips), "In whole shards; train and held out together.", "", ""),
        Headline("Hours", number(sum(split.hours for split in splits), 2), "Of these clips.", "", ""),
        Headline(
            "Faults",
            str(len(survey.faults)),
            "After reading every shard from end to end; each is listed below.",
            "",
            "",
        ),
    ]
    if survey.ledger:
        sources = survey.ledger.totals.sources
        meaning = ", ".join(f"{sources[verdict]} {verdict}" for verdict in (KEPT, REJECTED, FAILED)) + "."
        found.append(Headline("Sources", str(survey.ledger.totals.num_sources), meaning, "", ""))
    return found


def splits_table(survey: ShardSurvey) -> Table:
    """Return what each split holds; damaged shards count for nothing but their own column."""
    columns = [
        "split",
        "shards",
        "damaged",
        "clips",
        "sources",
        "people",
        "hours",
        "shortest s",
        "median s",
        "longest s",
        "GB",
        "kB/s",
    ]
    return Table(columns, [_split_cells(split) for split in survey.splits], 1, [])


def reasons_table(survey: ShardSurvey) -> Table | None:
    """Return the commonest reasons for which sources and clips were not kept, or None where there are none."""
    if survey.ledger is None or not survey.ledger.reasons:
        return None
    rows = [[step, reason, str(count)] for (step, reason), count in list(survey.ledger.reasons.items())[:_MOST_REASONS]]
    rest = sum(list(survey.ledger.reasons.values())[_MOST_REASONS:])
    if rest:
        rows.append(["", "other reasons", str(rest)])
    return Table(
        ["step", "not kept, because", "times"], rows, 2, ["total", "", str(sum(survey.ledger.reasons.values()))]
    )


def scores_table(survey: ShardSurvey) -> Table | None:
    """Return where the scores of kept and rejected clips lie, or None if no clip was judged."""
    if survey.ledger is None or not survey.ledger.scores:
        return None
    rows = [
        [
            _SCORE_NAMES[name][0],
            verdict,
            str(len(values)),
            *(number(float(each), 2) for each in np.percentile(values, (5, 50, 95))),
        ]
        for name, by_verdict in survey.ledger.scores.items()
        for verdict, values in by_verdict.items()
        if len(values)
    ]
    return Table(["score", "clips", "number", "5 %", "median", "95 %"], rows, 2, [])


def remarks(survey: ShardSurvey) -> list[str]:
    """Return what else one should know, in sentences that break nothing."""
    return [*_recording(survey), *_from_ledger(survey), *_from_files(survey), *_from_sounds(survey)]


def fault_lines(survey: ShardSurvey) -> list[str]:
    """Return a line for every fault."""
    return [" ".join(f"{fault.where}: {fault.reason}: {fault.told}".split()) for fault in survey.faults]


def length_panel(splits: list[SplitSurvey]) -> Panel:
    """Return a histogram of the clips' lengths."""
    seconds = {split.name: split.seconds for split in splits if split.num_clips}
    colours = dict(zip(seconds, COLOURS, strict=False))
    svg = panel("lengths", "length of clips", lambda axes: _bars(axes, seconds, colours), "seconds")
    return Panel(Markup(svg), "Each split on its own; the bars of one add up to 1.")


def score_panels(survey: ShardSurvey) -> list[Panel]:
    """Return a histogram of each score that was measured, of kept clips and of rejected ones."""
    scores = survey.ledger.scores if survey.ledger else {}
    return [
        Panel(
            Markup(panel(name, title, lambda axes, name=name: _bars(axes, scores[name], _VERDICT_COLOURS), title)),
            f"{meaning} {', '.join(f'{len(values)} {verdict}' for verdict, values in scores[name].items())}.",
        )
        for name, (title, meaning) in _SCORE_NAMES.items()
        if name in scores
    ]


def aligned(table: Table) -> list[str]:
    """Return a table as lines of plain text: words to the left, numbers to the right."""
    rows = [row for row in (table.columns, *table.rows, table.total) if row]
    widths = [max(len(row[place]) for row in rows) for place in range(len(table.columns))]
    return [
        "  ".join(
            cell.ljust(width) if place < table.num_labels else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _split_cells(split: SplitSurvey) -> list[str]:
    lengths = [f"{each:.2f}" for each in np.percentile(split.seconds, (0, 50, 100))] if split.num_clips else ["–"] * 3
    counts = (split.num_shards, split.num_bad_shards, split.num_clips, split.num_sources, split.num_people)
    rate = f"{split.bytes_per_second / 1e3:.1f}" if split.num_clips else "–"
    return [
        split.name,
        *(str(count) for count in counts),
        f"{split.hours:.2f}",
        *lengths,
        f"{split.num_bytes / 1e9:.3f}",
        rate,
    ]


def _recording(survey: ShardSurvey) -> list[str]:
    lines = ["a prepare is at work here, or was interrupted: run it again to finish"] if survey.is_unfinished else []
    if survey.clip is None:
        return ["no shard is whole", *lines]
    side = survey.clip.resolution
    return [f"faces of {side}×{side} pixels at {survey.clip.fps} fps, sound at {survey.clip.sample_rate_hz} Hz", *lines]


def _from_ledger(survey: ShardSurvey) -> list[str]:
    if survey.ledger is None:
        return [
            "no ledger here: nothing is known of sources that were not kept, of scores, or of shards that were not copied"
        ]
    found = survey.ledger.totals
    num_kept = found.clips.get(KEPT, 0)
    sources = ", ".join(f"{found.sources[verdict]} {verdict}" for verdict in (KEPT, REJECTED, FAILED))
    clips = f"{num_kept} clips kept, {found.clips.get(REJECTED, 0)} rejected"
    steps = ", ".join(f"{count} by {step}" for step, count in found.reasons.items())
    lines = [f"ledger: {found.num_sources} sources: {sources}; {clips}", f"not kept: {steps or 'none'}"]
    return lines + [
        f"judge skipped: {step}, for {count} of {num_kept} kept clips" for step, count in survey.ledger.skipped.items()
    ]


def _from_files(survey: ShardSurvey) -> list[str]:
    if survey.ledger is None:
        return []
    groups = survey.ledger.shared_files.duplicates
    shown = [
        f"same file: {', '.join(group[:_MOST_IDS])}{_more(len(group) - _MOST_IDS)}" for group in groups[:_MOST_GROUPS]
    ]
    summary = f"files of all sources with clips compared by sha256: {len(groups)} stand under several names with the same stretch"
    return [summary, *shown, *([f"same file: {len(groups) - _MOST_GROUPS} more"] if len(groups) > _MOST_GROUPS else [])]


def _from_sounds(survey: ShardSurvey) -> list[str]:
    sound = survey.sound
    looked = sound.num_clips + sound.num_unreadable
    summary = f"sounds of {looked} of {survey.num_clips} clips compared: {len(survey.shared_sounds)} sounds stand under several sources"
    groups = [
        f"same sound: {', '.join(group[:_MOST_IDS])}{_more(len(group) - _MOST_IDS)}" for group in survey.shared_sounds
    ]
    return [f"{summary}, {len(sound.silent)} clips are silent, {sound.num_unreadable} cannot be read", *groups]


def _more(num_left: int) -> str:
    return f" and {num_left} more" if num_left > 0 else ""


def _bars(axes: Axes, values: Mapping[str, NDArray[np.float64]], colours: Mapping[str, str]) -> None:
    """Draw one histogram per name, all with the same bins."""
    edges = _edges(np.concatenate(list(values.values())))
    for name, each in values.items():
        if len(each):
            counts, _ = np.histogram(each, edges)
            axes.bar(
                edges[:-1],
                counts / len(each),
                width=np.diff(edges),
                align="edge",
                color=colours[name],
                alpha=0.55,
                label=name,
            )
    axes.set_ylabel("share of clips")


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the borders of the bins: one bin per number where all are whole and close together."""
    if (values == values.round()).all() and np.ptp(values) < 2 * _MOST_BINS:
        return np.arange(values.min() - 0.5, values.max() + 1)
    return np.histogram_bin_edges(values, _MOST_BINS)
