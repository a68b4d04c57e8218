"""`python -m lipsync_lightning.report run=runs/demo`: what a run holds, as one page to look at and to pass on."""

from pathlib import Path

from omegaconf import DictConfig

from lipsync_lightning.entry import entry_point
from lipsync_lightning.paths import write_atomically
from lipsync_lightning.reporting.page import render
from lipsync_lightning.reporting.run_folder import read_run


def write_report(run: Path, out: Path) -> Path:
    """Write a run's report to `out`, whole or not at all, and return its path.

    The page holds its videos, pictures and curves; it names no other file and no address.

    Raises: BadConfig, if `run` holds nothing to report; BadMedia, if a file in it is not what its name says.
    """
    return write_atomically(out, render(read_run(run)).encode())


@entry_point("report")
def main(config: DictConfig) -> None:
    out = write_report(Path(config.run), Path(config.out))
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB); open it in a browser")


if __name__ == "__main__":
    main()
