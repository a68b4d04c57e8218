"""`python benchmarks/full_size.py [experiment…] [--set key=value…] [--json file]`: what full size needs, counted.

Each experiment is built from its YAML and takes a training step, a validation batch and an inference window on fake
tensors (see `commands/forecast.py`). A roofline is the time that operations and bytes need at the card's peaks;
the loader has to deliver the windows of a step in that time, which takes so many cores of the machine in README.md.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from lipsync_lightning.commands.forecast import count, fit_to
from lipsync_lightning.errors import BadConfig
from lipsync_lightning.files import CONF_DIR

EXPERIMENTS = ("syncnet", "stage1", "stage1_512", "stage1_latents", "stage2", "stage2_512", "stage2_efficient")
# bf16 operations and bytes a second, from the makers' data sheets.
CARDS = {"A100": (312e12, 2.0e12), "H100": (989e12, 3.35e12), "4090": (165e12, 1.0e12)}
COLUMNS = (
    *("experiment", "what", "batch_size", "resolution", "static_gib", "peak_gib", "total_gib", "tflop", "moved_tb"),
    *("kernels", "host_waits", *(f"{card}_s" for card in CARDS), "H100_windows_per_s"),
)


def rows_of(experiment: str, overrides: list[str]) -> list[dict[str, Any]]:
    """Return the row of the training step, of the validation batch, and of an inference window where there is one."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        config = compose("train", overrides=[f"+experiment={experiment}", *overrides])
        generates = config.data.samples._target_.endswith(".UNetSamples")
        rows = []
        for what in ("step", "validation", *(["inference"] if generates else [])):
            started = time.perf_counter()
            row = count(config, what)
            for card, (operations, moved) in CARDS.items():
                row[f"{card}_s"] = max(row["tflop"] * 1e12 / operations, row["moved_tb"] * 1e12 / moved)
            row |= {"H100_windows_per_s": row["batch_size"] / row["H100_s"]}
            rows.append(row | {"counted_in_s": time.perf_counter() - started})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", default=EXPERIMENTS)
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", help="overrides, as for train")
    parser.add_argument("--json", type=Path, help="a file for the rows")
    parser.add_argument("--profiles", nargs="*", help="say instead how it fits cards, such as 16gb 24gb 48gb 80gb")
    asked = parser.parse_args()
    for experiment in asked.experiments if asked.profiles else ():
        for profile in asked.profiles:
            with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
                config = compose("train", overrides=[f"+experiment={experiment}", *asked.overrides])
                try:
                    print(f"{experiment}: {fit_to(config, profile)}", flush=True)
                except BadConfig as error:
                    print(f"{experiment}: {error}", flush=True)
    if asked.profiles:
        return
    rows: list[dict[str, Any]] = []
    print("| " + " | ".join(COLUMNS) + " |\n| --- | --- |" + " ---: |" * (len(COLUMNS) - 2))
    for experiment in asked.experiments:
        found = rows_of(experiment, asked.overrides)
        for row in found:
            cells = (f"{value:.2f}" if isinstance(value, float) else str(value) for value in map(row.get, COLUMNS))
            print("| " + " | ".join(cells) + " |", flush=True)
        rows += found
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
