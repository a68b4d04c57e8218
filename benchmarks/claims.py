"""`python benchmarks/claims.py [key=value …]`: repeat the paper's claims in small, and write down what was seen.

`claims.yaml` says what is trained, how it is judged and what is expected; the library's own commands do it, each once.
What lies in `out` is kept: choose another after a change of the library.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from time import monotonic
from typing import Any

from matplotlib.figure import Figure
from omegaconf import OmegaConf

from lipsync_lightning.evaluation.curves import whole_log
from lipsync_lightning.files import write_atomically

Config = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What one run came to: figures it was judged by or logged last, and what validation logged by step."""

    scores: Mapping[str, float]
    curves: Mapping[str, Mapping[int, float]]


Results = Mapping[str, Sequence[Result]]  # by row, in the order of seeds


def load(changes: Sequence[str] = ()) -> Config:
    """Return `claims.yaml` with changes of the command line, without the claims that are not wanted."""
    given = OmegaConf.load(Path(__file__).with_suffix(".yaml"))
    config: Any = OmegaConf.to_container(OmegaConf.merge(given, OmegaConf.from_dotlist(list(changes))), resolve=True)
    return config | {"claims": {name: config["claims"][name] for name in config["only"] or config["claims"]}}


def overrides(lists: Mapping[str, Sequence[str]], name: str, seed: int) -> list[str]:
    """Return the overrides of one list, the names of other lists replaced by what is in them."""
    found = []
    for item in lists[name]:
        found += overrides(lists, item, seed) if item in lists else [item.replace("<seed>", str(seed))]
    return found


def rows_of(config: Config) -> list[str]:
    """Return what the claims compare, each once: variants, some with `:` and the way they are judged."""
    return list(dict.fromkeys(row for claim in config["claims"].values() for row in claim["rows"].values()))


def runs_in_order(config: Config) -> list[set[tuple[str, int]]]:
    """Return variants and seeds to train, in groups: each names folders of earlier ones in its overrides."""

    def named(texts: Iterable[str]) -> set[tuple[str, int]]:
        found = re.findall(rf"{re.escape(config['out'])}/(\w+)/seed_(\d+)", " ".join(texts))
        return {(name, int(seed)) for name, seed in found}

    groups = [{(row.split(":")[0], seed) for row in rows_of(config) for seed in config["seeds"]}]
    ways = {f"{row}:usually".split(":")[1] for row in rows_of(config) if row.startswith("stage")}
    groups[0] |= {run for way in ways for run in named(overrides(config["judged"], way, 0))}
    while rest := {other for run in groups[0] for other in named(overrides(config["variants"], *run))}:
        groups.insert(0, rest)
    return [group.difference(*groups[:place]) for place, group in enumerate(groups)]


def data_read(config: Config) -> dict[str, list[str]]:
    """Return those commands of `data` whose folders a run, a judge or another such command reads."""
    read = [text for group in runs_in_order(config) for run in group for text in overrides(config["variants"], *run)]
    read += [text for way in config["judged"] for text in overrides(config["judged"], way, 0)]
    commands: dict[str, list[str]] = {}
    for name, command in reversed(config["data"].items()):
        if re.search(rf"{re.escape(config['out'])}/{name}\b", " ".join(read)):
            commands = {name: command} | commands
            read += command
    return commands


def run_once(config: Config, name: str, command: Sequence[str], leaves: Path) -> None:
    """Run a command of the library on one CPU core, unless it is done. Raises: SystemExit, if it fails."""
    line, out = shlex.join(["python", "-m", *command]), Path(config["out"])
    log, record = out / "logs" / f"{name}.log", out / "done" / f"{name}.json"
    if record.is_file() and leaves.exists():
        if json.loads(record.read_text())["command"] != line:
            raise SystemExit(f"{leaves} was made by another command, see {record}. Choose another out=.")
        return
    print(name, flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    started, one_core = monotonic(), os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("a") as file:
        done = subprocess.run([sys.executable, "-m", *command], stdout=file, stderr=subprocess.STDOUT, env=one_core)
    if done.returncode != 0 or not leaves.exists():  # a training that a signal stopped has status 0
        raise SystemExit(f"{line} failed or was stopped, see {log}. The same command goes on from here.")
    write_atomically(record, json.dumps({"command": line, "seconds": monotonic() - started}).encode())


def train(config: Config, variant: str, seed: int) -> None:
    folder, given = Path(config["out"], variant, f"seed_{seed}"), overrides(config["variants"], variant, seed)
    trained = given[0].removeprefix("+experiment=demo/").split("_")[0]
    given += [*config["extra"], f"seed={seed}", f"run_dir={folder}", "ckpt_path=last"]
    network = folder / ("unet" if trained.startswith("stage") else trained)
    run_once(config, f"{variant}_{seed}", ["lipsync_lightning.train", *given], network)


def scores_of(config: Config, row: str, seed: int) -> Path:
    variant, way = f"{row}:usually".split(":")[:2]
    return Path(config["out"], variant, f"seed_{seed}", "judged", way, "metrics.json")


def judge(config: Config, row: str, seed: int) -> None:
    out = scores_of(config, row, seed).parent
    given = [f"+models.this={out.parents[1]}", f"out={out}", *overrides(config["judged"], out.name, seed)]
    run_once(
        config, f"{row}_{seed}_judged".replace(":", "_"), ["lipsync_lightning.evaluate", *given], out / "metrics.json"
    )


def run_all(config: Config) -> None:
    """Make the data, train every run and judge every U-Net, several at once."""
    for name, command in data_read(config).items():
        folder = Path(config["out"], name)
        run_once(config, name, [*command, f"out={folder}"], folder)
    unets = [row for row in rows_of(config) if row.startswith("stage")]
    steps: list[list[Callable[[], None]]] = [
        *([partial(train, config, *run) for run in sorted(group)] for group in runs_in_order(config)),
        [partial(judge, config, row, seed) for row in unets for seed in config["seeds"]],
    ]
    with ThreadPoolExecutor(config["num_processes"]) as pool:
        for step in steps:
            list(pool.map(lambda job: job(), step))  # after an error nothing new begins


def read_result(scores: Path) -> Result:
    """Return what a run logged at validation and what it was judged; of untouched videos, with `_real` behind."""
    log = whole_log(scores.parents[2])
    curves = {key: {int(s): float(v) for s, v in zip(*log[key], strict=True)} for key in log if key.startswith("val/")}
    figures: Any = json.loads(scores.read_text())["figures"] if scores.is_file() else {"real video": {}, "this": {}}
    real = {f"{key}_real": value for key, value in figures["real video"].items()}
    return Result({key: curve[max(curve)] for key, curve in curves.items()} | real | figures["this"], curves)


def verdict(figure: str, more: Sequence[Result], less: Sequence[Result]) -> tuple[str, list[float]]:
    """Return whether a figure is larger for `more` than for `less`, and the differences seed by seed.

    "seen": larger for every seed; "opposite": smaller for every seed; "not seen": neither.
    """
    differences = [one.scores[figure] - other.scores[figure] for one, other in zip(more, less, strict=True)]
    return "seen" if min(differences) > 0 else "opposite" if max(differences) < 0 else "not seen", differences


def with_spread(values: Sequence[float]) -> str:
    """Return mean ± sample standard deviation; a dash where nothing was measured."""
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{spread}".replace("-", "−") if values else "–"


def race(name: str, rows: Iterable[str], results: Results) -> tuple[dict[str, list[int]], float]:
    """Return the steps each row's seeds take to the highest value of a curve that all of them reach, and that value."""
    curves = {row: [result.curves[name] for result in results[row]] for row in rows}
    level = min(max(curve.values()) for of_row in curves.values() for curve in of_row)
    reached = {row: [[s for s in curve if curve[s] >= level] for curve in of_row] for row, of_row in curves.items()}
    return {row: [1 + min(steps) for steps in of_row] for row, of_row in reached.items()}, level


def table(rows: Sequence[Sequence[str]], rule: str = "---:") -> list[str]:
    """Return rows, the first of which is the head, as Markdown."""
    lines = [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows]
    return [lines[0], f"| --- |{f' {rule} |' * (len(rows[0]) - 1)}", *lines[1:], ""]


def section(claim: Config, results: Results, names: Mapping[str, str], picture: Path) -> list[str]:
    """Return the Markdown of one claim, and save its picture."""
    rows, columns = claim["rows"], claim["columns"]
    body = [["", *(names[key] for key in columns)]]
    for label, row in rows.items():
        found = [[one.scores[key] for one in results[row] if key in one.scores] for key in columns]
        body.append([label, *map(with_spread, found)])
    seen = [["expected", "here", "differences by seed"]]
    for says, (figure, more, less) in claim["expects"].items():
        word, differences = verdict(figure, results[more], results[less])
        by_seed = ", ".join(f"{difference:+.3f}" for difference in differences).replace("-", "−")
        seen.append([says, f"**{word}**", f"{by_seed} ({names[figure]})"])
    lines = [f"## {claim['title']}", "", claim["expected"], "", *table(body), *table(seen, "---")]
    trained = {label: row for label, row in rows.items() if ":" not in row}  # the others are judged another way only
    if "race" in claim:
        races = [race(key, trained.values(), results) for key in claim["race"]]
        body = [[label, *(", ".join(map(str, steps[row])) for steps, _ in races)] for label, row in trained.items()]
        body.append(["*level*", *(f"{level:.3f}" for _, level in races)])
        lines += table([["steps to the level that all reach", *(names[key] for key in claim["race"])], *body])
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure = draw_curves(trained, claim, results, names) if "curves" in claim else draw_scatter(claim, results, names)
    figure.savefig(picture, dpi=100, metadata={"Software": None})
    return [*lines, f"![{claim['title']}]({picture.parent.name}/{picture.name})", ""]


def draw_curves(rows: Mapping[str, str], claim: Config, results: Results, names: Mapping[str, str]) -> Figure:
    """Return one panel for each logged value: the mean over seeds by step, and the range of the seeds as a band."""
    figure = Figure(figsize=(5 * len(claim["curves"]), 3.4), layout="constrained")
    panels = figure.subplots(1, len(claim["curves"]), squeeze=False)[0]
    for panel, key in zip(panels, claim["curves"], strict=True):
        for label, row in rows.items():
            curves = [result.curves[key] for result in results[row]]
            by_step = {step + 1: [curve[step] for curve in curves] for step in curves[0]}
            (line,) = panel.plot(by_step.keys(), list(map(mean, by_step.values())), label=label, marker=".")
            low, high = (list(map(end, by_step.values())) for end in (min, max))
            panel.fill_between(by_step.keys(), low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        panel.set(xlabel="optimizer steps", ylabel=names[key])
        panel.grid(alpha=0.3)
    panels[-1].legend(fontsize=7)
    return figure


def draw_scatter(claim: Config, results: Results, names: Mapping[str, str]) -> Figure:
    """Return one figure against another: a dot for each seed, the row's name at their mean."""
    figure = Figure(figsize=(7, 4.42), layout="constrained")
    panel = figure.subplots()
    for number, (label, row) in enumerate(claim["rows"].items()):
        xs, ys = ([result.scores[key] for result in results[row]] for key in claim["axes"])
        panel.scatter(xs, ys, s=18, alpha=0.7, color=f"C{number}")
        panel.annotate(label, (mean(xs), mean(ys)), fontsize=7, color=f"C{number}")
    panel.set(xlabel=names[claim["axes"][0]], ylabel=names[claim["axes"][1]])
    panel.grid(alpha=0.3)
    return figure


def write_report(config: Config, results: Results) -> None:
    """Write what the runs show below the introduction of the report, which stays, as do claims that are not wanted."""
    report = Path(config["report"])
    introduction, *found = (report.read_text() if report.is_file() else "# Experiments\n").split("\n## ")
    sections = {text.partition("\n")[0]: f"## {text}" for text in found if config["only"]}
    for name, claim in config["claims"].items():
        world = f"World: `leak` {config['leak']}, `second_voice` {config['second_voice']}."
        scores = results[next(iter(claim["rows"].values()))][0].scores
        if "sync_confidence_real" in scores:
            sync, mouth = scores["sync_confidence_real"], scores["mouth_correlation_real"]
            world += f" Untouched videos score {sync:.3f} sync confidence with their own speech, and their mouths"
            world += f" follow it at {mouth:.3f}."
        told = claim | {"expected": f"{claim['expected']}\n\n{world}"}
        lines = section(told, results, config["names"], report.with_suffix("") / f"{name}.png")
        sections[claim["title"]] = "\n".join(lines)
    write_atomically(report, "\n".join([introduction, *(sections[title] for title in sorted(sections))]).encode())


def main() -> None:
    config = load(sys.argv[1:])
    run_all(config)
    found = {row: [read_result(scores_of(config, row, seed)) for seed in config["seeds"]] for row in rows_of(config)}
    write_report(config, found)
    hours = (
        sum(json.loads(record.read_text())["seconds"] for record in Path(config["out"], "done").glob("*.json")) / 3600
    )
    print(f"{config['report']}: what was expected, and what was seen. It took {hours:.1f} hours of one CPU core each.")


if __name__ == "__main__":
    main()
