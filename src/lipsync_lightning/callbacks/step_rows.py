"""Tables that grow with a run: a few rows for each validation."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from lipsync_lightning.files import write_atomically

SAMPLES_TABLE = "samples/samples.csv"  # in a run's folder: held-out clips as a stage generated them
SAMPLE_SCORES = ("sync_real", "sync_generated", "sync_control", "psnr_mouth")
SIMILARITIES_TABLE = "similarities.csv"  # in a run's folder: how SyncNet's similarities lie


def put_rows(path: Path, step: int, rows: Sequence[Mapping[str, object]]) -> None:
    """Write the rows of a step behind those of earlier ones into a csv, whole or not at all.

    Rows of this step and of later ones are replaced: a run that was resumed before them makes them again.

    Args: rows: at least one, all with the same columns; `step` is put in front of them.
    """
    earlier: list[dict[str, str]] = []
    if path.is_file():
        with path.open(newline="") as file:
            earlier = [row for row in csv.DictReader(file) if int(row["step"]) < step]
    text = io.StringIO()
    table = csv.DictWriter(text, ["step", *rows[0]], extrasaction="ignore")
    table.writeheader()
    table.writerows(earlier)
    table.writerows({"step": step, **row} for row in rows)
    write_atomically(path, text.getvalue().encode())
