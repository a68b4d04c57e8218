"""`python -m lipsync_lightning.ablate`: repeat the paper's claims, and write down what was seen."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lipsync_lightning.entry import entry_point
from lipsync_lightning.errors import StepFailed
from lipsync_lightning.judge import SCORES
from lipsync_lightning.paths import write_atomically
from lipsync_lightning.reporting.claim_figures import save_curves, save_scatter
from lipsync_lightning.reporting.claims import Expectation, Run, expectations_table, read_run, steps_table, table

JUDGE_SEED = 101
TRAINED = {"syncnet": "syncnet", "stage1": "unet", "stage2": "unet"}  # what a finished run of each kind leaves in its folder
Command = list[str]


def run_logged(command: Command, log: Path) -> None:
    """Run `python -m` with a command on one CPU core, its output in `log`. Raises: StepFailed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    one_core = {"OMP_NUM_THREADS": "1", "WANDB_SILENT": "true"}
    with log.open("a") as file:
        file.write(f"$ python -m {shlex.join(command)}\n")
        file.flush()
        done = subprocess.run([sys.executable, "-m", *command], stdout=file, stderr=subprocess.STDOUT, env=os.environ | one_core)
    if done.returncode != 0:
        raise StepFailed(f"python -m {shlex.join(command)} failed; {log} says why, and the same command goes on from here")


def run_step(name: str, commands: Sequence[Command], config: DictConfig) -> None:
    """Run the commands of a step one after another, once. Raises: StepFailed."""
    done = Path(config.out) / "ablation" / "done" / name
    wanted = "\n".join(shlex.join(command) for command in commands)
    if done.is_file() and done.read_text() == wanted:
        return
    print(name, flush=True)
    for command in commands:
        run_logged(command, Path(config.out) / "ablation" / "logs" / f"{name}.log")
    write_atomically(done, wanted.encode())


def experiments_of(config: DictConfig) -> list[str]:
    """Return every experiment that a claim compares, after those they rest on."""
    compared = {str(experiment) for claim in config.claims.values() for experiment in claim.rows.values()}
    return sorted(compared | set(config.rest_on), key=lambda name: (list(TRAINED).index(kind(name)), name))


def kind(experiment: str) -> str:
    """Return what an experiment trains, the first word of its name."""
    return experiment.split("_")[0]


def train_and_judge(experiment: str, config: DictConfig) -> None:
    """Train what is missing of an experiment's seeds, in one sweep, and judge what is not judged. Raises: StepFailed."""
    root = Path(config.out) / "ablation"
    folders = {int(seed): root / experiment / f"seed_{seed}" for seed in config.seeds}
    log = root / "logs" / f"{experiment}.log"
    network = TRAINED[kind(experiment)]
    missing = [seed for seed, folder in folders.items() if not (folder / network).is_dir()]
    steps = config.max_steps[kind(experiment)]
    if missing:
        print(f"training {experiment}, seeds {missing}", flush=True)
        seeds = ",".join(map(str, missing))
        shorter = [] if steps is None else [f"trainer.max_steps={steps}", f"trainer.val_check_interval={steps}"]
        sweep = ["-m", f"+experiment=ablation/{experiment}", f"seed={seeds}", f"runs_dir={config.out}", "ckpt_path=last", *shorter]
        run_logged(["lipsync_lightning.train", *sweep], log)
    is_compared = any(experiment in claim.rows.values() for claim in config.claims.values())
    unjudged = [str(folder) for folder in folders.values() if network == "unet" and is_compared and not (folder / SCORES).is_file()]
    if unjudged:
        judged = ["-m", f"run={','.join(unjudged)}", *judge_overrides(config)]
        run_logged(["lipsync_lightning.judge", *judged], log)


def judge_overrides(config: DictConfig) -> Command:
    return [
        f"videos={config.out}/ablation/raw/heldout",
        f"num_videos={config.num_videos}",
        f"syncnet.path={config.out}/ablation/judge/seed_{JUDGE_SEED}/syncnet",
        "faces=sidecar",
        "network/lpips@lpips=untrained",
        "num_inference_steps=3",
    ]


def in_parallel(experiments: Iterable[str], config: DictConfig) -> None:
    """Train and judge, several experiments at once. Raises: StepFailed."""
    pool = ThreadPoolExecutor(config.num_processes)
    try:
        for future in [pool.submit(train_and_judge, experiment, config) for experiment in experiments]:
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C nothing new begins


def claim_sections(claims: Mapping[str, Any], runs: Mapping[str, Sequence[Run]], figures: Path) -> list[str]:
    """Return the Markdown of every claim, and save its figures beside."""
    lines = []
    for name, claim in claims.items():
        rows = claim["rows"]
        lines += ["", f"## {claim['title']}", "", claim["expected"], "", *table(rows, claim["columns"], runs), ""]
        lines += expectations_table([Expectation(**each) for each in claim["expects"]], runs)
        if "curves" in claim:
            lines += ["", *steps_table(rows, claim["curves"], runs)]
            picture = save_curves(figures / f"{name}.png", rows, claim["curves"], runs)
        else:
            across = "mouth_correlation_old" if "mouth_correlation_old" in claim["columns"] else claim["columns"][0]
            picture = save_scatter(figures / f"{name}.png", rows, across, "sync_confidence", runs)
        lines += ["", f"![{claim['title']}]({figures.name}/{picture.name})"]
    return lines


def write_report(config: DictConfig) -> Path:
    """Write what the runs show, and return the file. Raises: MissingWeights, if a run is missing."""
    report = Path(config.report)
    claims: dict[str, Any] = OmegaConf.to_container(config.claims, resolve=True)  # pyright: ignore[reportAssignmentType]
    root = Path(config.out) / "ablation"
    compared = {str(experiment) for claim in claims.values() for experiment in claim["rows"].values()}
    runs = {name: [read_run(root / name / f"seed_{seed}", SCORES) for seed in config.seeds] for name in compared}
    text = [config.introduction.rstrip(), *real_videos(runs), *claim_sections(claims, runs, report.with_suffix(""))]
    write_atomically(report, ("\n".join(text) + "\n").encode())
    return report


def real_videos(runs: Mapping[str, Sequence[Run]]) -> list[str]:
    """Return the line that says what untouched videos score: the ceiling of every figure."""
    scores = runs["stage2"][0].scores
    return [
        "",
        f"The untouched videos score {scores['sync_confidence_real']:.3f} sync confidence with their own speech, and their mouths follow "
        f"it at {scores['mouth_correlation_real']:.3f}.",
    ]


@entry_point("ablate")
def main(config: DictConfig) -> None:
    steps: dict[str, list[Command]] = OmegaConf.to_container(config.steps, resolve=True)  # pyright: ignore[reportAssignmentType]
    for name, commands in steps.items():
        run_step(name, commands, config)
    experiments = experiments_of(config)
    for trained in TRAINED:  # stage 2 rests on stage 1 and SyncNet
        in_parallel([experiment for experiment in experiments if kind(experiment) == trained], config)
    print(f"{write_report(config)}: what was expected, and what was seen")


if __name__ == "__main__":
    main()
