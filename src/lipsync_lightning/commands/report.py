"""`python -m lipsync_lightning.report run=<run or folder of runs>`: what lies there, as one page."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from lipsync_lightning.composing import flat
from lipsync_lightning.errors import BadConfig, BadMedia
from lipsync_lightning.evaluation.curves import Series, drawn_log, log_files, whole_log
from lipsync_lightning.evaluation.metrics import METRICS, comparison, metric
from lipsync_lightning.evaluation.page import Curve, Detail, Picture, Table, write_page
from lipsync_lightning.evaluation.suite import OTHER
from lipsync_lightning.media.strips import read_png, save_png, stacked, strip_rows
from lipsync_lightning.modules.weights import RUN_CONFIG

MOST_PICTURES = 4  # that are not folded
Row = Mapping[str, Any]


def write_report(run: Path) -> Path:
    """Write `report/index.html` into a folder and return its path.

    The folder is that of a training run, finished or going, or one that holds several, with `metrics.json` of an
    evaluation and `steps.json` of a demo where there are any.
    Raises: BadConfig, if there is nothing to report; BadMedia, if a file is not what its name says.
    """
    evaluation = _read_json(run / "metrics.json", {"figures": {}, "bars": {}, "rows": []})
    steps = _read_json(run / "steps.json", [])
    is_one = (run / RUN_CONFIG).is_file() or bool(log_files(run))
    folders = [run] if is_one else sorted(folder for folder in run.glob("*") if log_files(folder))
    if not (folders or steps or evaluation["figures"]):
        raise BadConfig(f"run={run} holds nothing to report: no training run, no metrics.json; give a run's folder")
    names = run_names(folders)
    logs = {name: whole_log(folder) for name, folder in zip(names, folders, strict=True)}
    pictures = evaluation_pictures(evaluation["rows"], run)
    curves: list[Curve] = []
    details: list[Detail] = []
    for folder, (name, log) in zip(folders, logs.items(), strict=True):
        name = "" if is_one else name
        samples = sample_pictures(folder, run / "report", name)
        if not evaluation["rows"]:
            pictures += samples[: MOST_PICTURES if is_one else 1]
        important, other = drawn_log(log, name)
        curves += important
        config = folder / RUN_CONFIG
        of_run: list[Detail] = [
            ("samples of held-out clips", samples),
            ("all other curves", other),
            ("configuration", config.read_text(encoding="utf-8") if config.is_file() else ""),
        ]
        details += [(f"{name}: {heading}" if name else heading, content) for heading, content in of_run]
    newest = progress(*logs.values()) if is_one else {name: values_at(log) for name, log in logs.items()}
    table = comparison(evaluation["figures"] or newest, evaluation["bars"])
    if evaluation["figures"]:
        details.insert(0, ("all generated clips", clips_table(evaluation["rows"])))
        details.insert(1, ("newest values of each training", comparison(newest)))
    titles = {row[0] for row in table.rows}
    meanings = [[each.label, each.meaning] for each in METRICS.values() if each.title in titles]
    details += [
        ("steps", steps_table(steps) if steps else ""),
        ("what the metrics mean", Table(columns=["metric", "meaning"], rows=meanings, num_labels=2)),
    ]
    resumed = len(log_files(run)) - 1 if is_one else 0
    return write_page(
        run / "report" / "index.html",
        title=run.resolve().name,
        intro="Arrows say which way is better; the best is marked. Videos lie beside this page."
        + (f" This run was resumed {resumed} time{'s' if resumed > 1 else ''}." if resumed > 0 else ""),
        table=table,
        pictures=pictures,
        curves=curves,
        details=[each for each in details if (each[1].rows if isinstance(each[1], Table) else each[1])],
    )


def run_names(folders: Sequence[Path]) -> list[str]:
    """Return the names of runs; jobs of a sweep, whose folders are numbers, are told apart by settings."""
    if not folders or not all(folder.name.isdecimal() for folder in folders):
        return [folder.name for folder in folders]
    settings = [flat(OmegaConf.to_container(OmegaConf.load(folder / RUN_CONFIG))) for folder in folders]
    differing = [
        key for key in settings[0] if key != "run_dir" and any(each.get(key) != settings[0][key] for each in settings)
    ]
    told = [", ".join(f"{key.split('.')[-1]}={each.get(key)}" for key in differing) for each in settings]
    return [f"{folder.name}: {each}" for folder, each in zip(folders, told, strict=True)]


def values_at(log: Mapping[str, Series], step: float = np.inf) -> dict[str, float]:
    """Return the newest value up to a step of each known metric, and of losses without their terms."""
    return {
        name: float(values[steps <= step][-1])
        for name, (steps, values) in log.items()
        if (name.rpartition("/")[2] in METRICS or name.endswith("/loss")) and (steps <= step).any()
    }


def progress(log: Mapping[str, Series]) -> dict[str, dict[str, float]]:
    """Return the values at the first, the middle and the last validation, and the newest ones."""
    steps = sorted({int(step) for name in log if name.startswith("val/") for step in log[name][0]})
    last = max((int(steps[-1]) for steps, _ in log.values()), default=0)
    earlier = {f"step {step}": values_at(log, step) for step in _first_middle_last(steps) if step < last}
    return earlier | {f"step {last}": values_at(log)}


def evaluation_pictures(rows: Sequence[Row], run: Path) -> list[Picture]:
    """Return, for a few people, what each system made of another one's speech, and the last system's video."""
    pictures = []
    for person in list(dict.fromkeys(row["person"] for row in rows))[:MOST_PICTURES]:
        mine = [row for row in rows if (row["person"], row["condition"]) == (person, OTHER)]
        image = stack([run / row["strip"] for row in mine], run / "report" / f"{person}.png")
        caption = f"From top to bottom: real, {', '.join(row['system'] for row in mine)}. Video: {mine[-1]['system']}."
        title = f"{person} says the words of {mine[-1]['speech']}"
        pictures.append(Picture(title=title, image=image, video=run / mine[-1]["video"], caption=caption))
    return pictures


def sample_pictures(run: Path, out: Path, name: str) -> list[Picture]:
    """Return what validation made of each held-out clip: first, in the middle and last, and the last video.

    Args: out: folder for the pictures; name: of the run, where several stand on one page, or nothing.
    """
    rows = _read_table(run / "samples" / "samples.csv")
    shown = _first_middle_last(sorted({int(row["step"]) for row in rows}))
    pictures = []
    for last in [row for row in rows if int(row["step"]) == shown[-1]]:
        same_clip = [row for row in rows if (row["number"], row["id"]) == (last["number"], last["id"])]
        mine = sorted((row for row in same_clip if int(row["step"]) in shown), key=lambda row: int(row["step"]))
        image = stack([run / row["strip"] for row in mine], out / f"{name}_sample_{last['number']}.png")
        found = [(METRICS[key], float(value)) for key, value in last.items() if key in METRICS and value]
        scores = ", ".join(f"{each.label} {each.shown(value)}" for each, value in found)
        made = ", ".join(f"after step {row['step']}" for row in mine)
        caption = f"From top to bottom: real, {made}. {scores}."
        title = f"{name}: {last['id']}" if name else last["id"]
        pictures.append(Picture(title=title, image=image, video=run / last["video"], caption=caption))
    return pictures


def stack(strips: Sequence[Path], out: Path) -> Path | None:
    """Write one picture of film strips (real, masked, generated) of one clip: real frames, then each one's generated.

    Returns: its path, or None if the last strip is not there; earlier ones may be missing or of another size.
    """
    found = [strip_rows(read_png(path), 3) for path in strips if path.is_file()]
    if not found or not strips[-1].is_file():
        return None
    real = found[-1][0]
    save_png(out, stacked([real, *(made for _, _, made in found if made.shape == real.shape)]))
    return out


def clips_table(rows: Sequence[Row]) -> Table:
    """Return every judged clip with its scores and the name of its video."""
    words = ("system", "condition", "person", "speech", "video")
    names = [name for name in METRICS if any(name in row for row in rows)]
    cells = [
        [*(row.get(word, "") for word in words), *(metric(name).shown(row.get(name)) for name in names)] for row in rows
    ]
    return Table(columns=[*words, *(metric(name).label for name in names)], rows=cells, num_labels=len(words))


def steps_table(steps: Sequence[Row]) -> Table:
    """Return what was run, how long it took and how much memory it needed at most."""
    needed = [(step["seconds"], step["peak_memory_mb"]) for step in steps]
    totals = [*needed, (sum(seconds for seconds, _ in needed), max(memory for _, memory in needed))]
    cells = [[f"{seconds:.0f} s", f"{memory:.0f} MB"] for seconds, memory in totals]
    rows = [[step["step"], step["command"], *each] for step, each in zip(steps, cells, strict=False)]
    total = ["all", "", *cells[-1]]
    return Table(columns=["step", "command", "time", "peak memory"], rows=rows, num_labels=2, total=total)


def _first_middle_last(steps: Sequence[int]) -> list[int]:
    return [steps[place] for place in sorted({0, (len(steps) - 1) // 2, len(steps) - 1})] if steps else []


def _read_table(path: Path) -> list[dict[str, str]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return list(csv.DictReader(lines))


def _read_json(path: Path, nothing: Any) -> Any:
    if not path.is_file():
        return nothing
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadMedia(f"{path} is not JSON ({error}); run the step that writes it again") from error
    if type(content) is not type(nothing) or any(key not in content for key in nothing):
        raise BadMedia(f"{path} is not as this version writes it; run the step that writes it again")
    return content


def run(config: DictConfig) -> None:
    out = write_report(Path(config.run))
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB); open it in a browser")
