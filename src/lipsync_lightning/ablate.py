"""`python -m lipsync_lightning.ablate`: repeat the paper's claims, and write down what was seen."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from lipsync_lightning.claims_tmp.claim_figures import save_curves, save_scatter
from lipsync_lightning.claims_tmp.claims import Expectation, Run, expectations_table, read_run, steps_table, table
from lipsync_lightning.cli import entry_point
from lipsync_lightning.errors import StepFailed, WouldOverwrite
from lipsync_lightning.files import CONF_DIR, write_atomically
from lipsync_lightning.modules.weights import RUN_CONFIG

TRAINED = {
    "syncnet": "syncnet",
    "stage1": "unet",
    "stage2": "unet",
}  # what a finished run of each kind leaves in its folder
OTHERWISE_JUDGED = ":"  # between an experiment and the way it is judged, where that is not the usual one
TIMES = "commands.jsonl"
Command = list[str]
Settings = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One experiment: its runs, with the settings they must have been made with."""

    experiment: str
    network: str
    runs: Mapping[int, tuple[Path, Settings]]  # by seed
    judgements: Mapping[str, tuple[Command, Settings]]  # by the file of scores


def run_logged(command: Command, root: Path, log: str) -> None:
    """Run `python -m` with a command on one CPU core, its output in `root/logs/<log>.log`. Raises: StepFailed."""
    path = root / "logs" / f"{log}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    one_core = {"OMP_NUM_THREADS": "1", "WANDB_SILENT": "true"}
    started = monotonic()
    with path.open("a") as file:
        file.write(f"$ python -m {shlex.join(command)}\n")
        file.flush()
        done = subprocess.run(
            [sys.executable, "-m", *command], stdout=file, stderr=subprocess.STDOUT, env=os.environ | one_core
        )
    if done.returncode != 0:
        raise StepFailed(
            f"python -m {shlex.join(command)} failed; {path} says why, and the same command goes on from here"
        )
    with (root / TIMES).open("a") as file:
        file.write(json.dumps({"command": shlex.join(command), "seconds": monotonic() - started}) + "\n")


def run_step(name: str, commands: Sequence[Command], root: Path) -> None:
    """Run the commands of a step one after another, once. Raises: StepFailed; WouldOverwrite, if it was once done by other commands."""
    done = root / "done" / name
    wanted = "\n".join(shlex.join(command) for command in commands)
    if done.is_file():
        if done.read_text() != wanted:
            raise WouldOverwrite(
                f"{root} was made by other commands: {done.read_text()}; choose another out=, or delete {root}"
            )
        return
    print(name, flush=True)
    for command in commands:
        run_logged(command, root, name)
    write_atomically(done, wanted.encode())


def compared(config: DictConfig) -> list[str]:
    """Return what the claims compare, each once: experiments, some with `:` and the way they are judged."""
    return list(dict.fromkeys(str(row) for claim in config.claims.values() for row in claim.rows.values()))


def experiments_of(config: DictConfig) -> list[str]:
    """Return every experiment that a claim compares, after those they rest on."""
    names = {row.split(OTHERWISE_JUDGED)[0] for row in compared(config)} | set(config.rest_on)
    return sorted(names, key=lambda name: (list(TRAINED).index(kind(name)), name))


def kind(experiment: str) -> str:
    """Return what an experiment trains, the first word of its name."""
    return experiment.split("_")[0]


def composed(root: str, overrides: Sequence[str]) -> Settings:
    """Return the settings a command would have, all references resolved."""
    GlobalHydra.instance().clear()  # of this command, which is composed by now; there can be but one
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        return OmegaConf.to_container(compose(root, overrides=list(overrides)), resolve=True)  # pyright: ignore[reportReturnType]


def planned(experiment: str, config: DictConfig) -> Planned:
    """Return what an experiment needs. Not for several threads at once: Hydra composes for the whole process."""
    root = Path(config.out) / "ablation"
    folders = {int(seed): (root / experiment / f"seed_{seed}").resolve() for seed in config.seeds}
    ways = [
        row.partition(OTHERWISE_JUDGED)[2] for row in compared(config) if row.split(OTHERWISE_JUDGED)[0] == experiment
    ]
    commands = {scores_file(way): judge_overrides(config, way) for way in ways if TRAINED[kind(experiment)] == "unet"}
    return Planned(
        experiment=experiment,
        network=TRAINED[kind(experiment)],
        runs={
            seed: (folder, composed("train", train_overrides(experiment, seed, config, folder)))
            for seed, folder in folders.items()
        },
        judgements={file: (command, composed("judge", ["run=any", *command])) for file, command in commands.items()},
    )


def train_overrides(experiment: str, seeds: object, config: DictConfig, run_dir: Path | None = None) -> Command:
    folder = [] if run_dir is None else [f"run_dir={run_dir}"]
    return [f"+experiment=ablation/{experiment}", f"seed={seeds}", f"runs_dir={config.out}", "ckpt_path=last", *folder]


def judge_overrides(config: DictConfig, way: str) -> Command:
    """Return how a run is judged, `way` being one of `judged_as`, or empty for the usual one."""
    return [
        *map(str, config.judged_as.usually),
        *(map(str, config.judged_as[way]) if way else []),
        f"scores={scores_file(way)}",
    ]


def scores_file(way: str) -> str:
    return f"scores_{way}.json" if way else "scores.json"


def is_trained(folder: Path, network: str, wanted: Settings) -> bool:
    """Return whether a run is whole. Raises: WouldOverwrite, if the folder holds a run of other settings."""
    stored = folder / RUN_CONFIG
    if not stored.is_file():
        return False
    found: Settings = OmegaConf.to_container(OmegaConf.load(stored), resolve=True)  # pyright: ignore[reportAssignmentType]
    differing = sorted(
        key for key in wanted.keys() | found.keys() if key != "ckpt_path" and wanted.get(key) != found.get(key)
    )
    if differing:
        raise WouldOverwrite(
            f"{folder} was trained with another {', '.join(differing)}; choose another out=, or delete that folder"
        )
    return (folder / network).is_dir()


def is_judged(folder: Path, network: str, file: str, wanted: Settings) -> bool:
    """Return whether a run's network, as it is now, was judged like this."""
    scores = folder / file
    if not scores.is_file() or scores.stat().st_mtime < (folder / network).stat().st_mtime:
        return False
    return json.loads(scores.read_text()).get("settings") == {
        key: value for key, value in wanted.items() if key != "run"
    }


def train_and_judge(plan: Planned, config: DictConfig) -> None:
    """Train what is missing of an experiment's seeds, in one sweep, and judge what is not judged.

    Raises: StepFailed, also if a training was stopped from outside; WouldOverwrite.
    """
    root = Path(config.out) / "ablation"
    missing = [seed for seed, (folder, wanted) in plan.runs.items() if not is_trained(folder, plan.network, wanted)]
    if missing:
        print(f"training {plan.experiment}, seeds {missing}", flush=True)
        sweep = train_overrides(plan.experiment, ",".join(map(str, missing)), config)
        run_logged(["lipsync_lightning.train", "-m", *sweep], root, plan.experiment)
    stopped = [str(folder) for folder, _ in plan.runs.values() if not (folder / plan.network).is_dir()]
    if stopped:
        raise StepFailed(f"{', '.join(stopped)}: training was stopped; the same command goes on from here")
    for file, (command, wanted) in plan.judgements.items():
        unjudged = [
            str(folder) for folder, _ in plan.runs.values() if not is_judged(folder, plan.network, file, wanted)
        ]
        if unjudged:
            run_logged(["lipsync_lightning.judge", "-m", f"run={','.join(unjudged)}", *command], root, plan.experiment)


def in_parallel(plans: Iterable[Planned], config: DictConfig) -> None:
    """Train and judge, several experiments at once. Raises: StepFailed, WouldOverwrite."""
    pool = ThreadPoolExecutor(config.num_processes)
    try:
        for future in [pool.submit(train_and_judge, plan, config) for plan in plans]:
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C nothing new begins


def claim_sections(claims: Mapping[str, Any], runs: Mapping[str, Sequence[Run]], figures: Path) -> list[str]:
    """Return the Markdown of every claim, and save its figures beside."""
    lines = []
    for name, claim in claims.items():
        rows = claim["rows"]
        logged = {label: row for label, row in rows.items() if OTHERWISE_JUDGED not in row}  # judging leaves no curves
        lines += ["", f"## {claim['title']}", "", claim["expected"], "", *table(rows, claim["columns"], runs), ""]
        lines += expectations_table([Expectation(**each) for each in claim["expects"]], runs)
        if "race" in claim:
            lines += ["", *steps_table(logged, claim["race"], runs)]
        if "curves" in claim:
            picture = save_curves(figures / f"{name}.png", logged, claim["curves"], runs)
        else:
            across, up = claim["axes"]
            picture = save_scatter(figures / f"{name}.png", rows, across, up, runs)
        lines += ["", f"![{claim['title']}]({figures.name}/{picture.name})"]
    return lines


def read_all(config: DictConfig) -> dict[str, list[Run]]:
    """Return the runs of everything compared, by row and in the order of seeds. Raises: MissingWeights, if one is missing."""
    root = Path(config.out) / "ablation"
    runs = {}
    for row in compared(config):
        experiment, _, way = row.partition(OTHERWISE_JUDGED)
        runs[row] = [read_run(root / experiment / f"seed_{seed}", scores_file(way)) for seed in config.seeds]
    return runs


def closing_lines(runs: Mapping[str, Sequence[Run]], root: Path) -> list[str]:
    """Return what untouched videos score, the ceiling of every figure, and how long all of it took."""
    ceilings = [run.scores for of_row in runs.values() for run in of_row if "sync_confidence_real" in run.scores]
    lines = ["", "## Ceiling and cost", ""]
    if ceilings:
        lines.append(
            f"Untouched videos score {ceilings[0]['sync_confidence_real']:.3f} sync confidence with their own speech, and their mouths "
            f"follow it at {ceilings[0]['mouth_correlation_real']:.3f}."
        )
    seconds = (
        [json.loads(line)["seconds"] for line in (root / TIMES).read_text().splitlines()]
        if (root / TIMES).is_file()
        else []
    )
    return [*lines, f"All commands together took {sum(seconds) / 3600:.1f} hours of one CPU core each."]


def write_report(config: DictConfig) -> Path:
    """Write what the runs show, and return the file. Raises: MissingWeights, if a run is missing."""
    report, root = Path(config.report), Path(config.out) / "ablation"
    claims: dict[str, Any] = OmegaConf.to_container(config.claims, resolve=True)  # pyright: ignore[reportAssignmentType]
    runs = read_all(config)
    text = [
        config.introduction.rstrip(),
        *claim_sections(claims, runs, report.with_suffix("")),
        *closing_lines(runs, root),
    ]
    write_atomically(report, ("\n".join(text) + "\n").encode())
    return report


@entry_point("ablate")
def main(config: DictConfig) -> None:
    root = Path(config.out) / "ablation"
    steps: dict[str, list[Command]] = OmegaConf.to_container(config.steps, resolve=True)  # pyright: ignore[reportAssignmentType]
    for name, commands in steps.items():
        run_step(name, commands, root)
    plans = [planned(experiment, config) for experiment in experiments_of(config)]
    for trained in TRAINED:  # stage 2 rests on stage 1 and SyncNet
        in_parallel([plan for plan in plans if kind(plan.experiment) == trained], config)
    print(f"{write_report(config)}: what was expected, and what was seen")


if __name__ == "__main__":
    main()
