"""`python -m lipsync_lightning.report run=runs/stage1`: what a run holds, as one page to look at and to pass on."""

from pathlib import Path

from omegaconf import DictConfig

from lipsync_lightning.cli import entry_point
from lipsync_lightning.errors import BadConfig
from lipsync_lightning.evaluation.old_page import render
from lipsync_lightning.evaluation.run_folder import read_run
from lipsync_lightning.evaluation.training_page import render_training
from lipsync_lightning.evaluation.training_run import OF_A_ROAD, is_training_run, read_training_run
from lipsync_lightning.files import write_atomically
from lipsync_lightning.modules.weights import RUN_CONFIG

_MOST_NAMED = 4


def write_report(run: Path, out: Path) -> Path:
    """Write a run's report to `out`, whole or not at all, and return its path.

    `run` is the folder of one training run, finished or still going, or that of a road of several with their evaluation, such as the
    demo's. The page holds its videos, pictures and curves; it names no other file and no address.

    Raises: BadConfig, if `run` holds nothing to report; BadMedia, if a file in it is not what its name says.
    """
    _require_one_run(run)
    page = render_training(read_training_run(run)) if is_training_run(run) else render(read_run(run))
    return write_atomically(out, page.encode())


def _require_one_run(run: Path) -> None:
    inside = sorted(path.parent.name for path in run.glob(f"*/{RUN_CONFIG}"))
    if inside and not any((run / name).is_file() for name in (RUN_CONFIG, *OF_A_ROAD)):
        runs = ", ".join(str(run / name) for name in inside[:_MOST_NAMED])
        raise BadConfig(f"run={run} holds several runs and no evaluation of them; give one of them: {runs}")


@entry_point("report")
def main(config: DictConfig) -> None:
    out = write_report(Path(config.run), Path(config.out))
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB); open it in a browser")


if __name__ == "__main__":
    main()
