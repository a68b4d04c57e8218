"""`python -m lipsync_lightning.demo`: the whole road at demo size, each step one of the library's own commands."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lipsync_lightning.cli import entry_point
from lipsync_lightning.errors import WouldOverwrite
from lipsync_lightning.files import write_atomically

STEPS_FILE = "steps.json"  # what was done, how long it took, what it needed


def finished_steps(out: Path) -> list[dict[str, Any]]:
    """Return what an earlier demo in this folder finished, in order."""
    path = out / STEPS_FILE
    return json.loads(path.read_text()) if path.is_file() else []


def run_step(name: str, arguments: list[str], leaves: Path | None) -> dict[str, Any]:
    """Run one command, and return its name, command line, seconds, and the memory of its largest process.

    Args: leaves: what is there once the step is done. A training that a signal ended has status 0, but has left no network.

    Raises: SystemExit with the command's status if it fails, or 1 if it did not end its work.
    """
    command = ["python", "-m", *arguments]
    print(f"\n[{name}] {shlex.join(command)}", flush=True)
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, *command[1:]], env={"WANDB_SILENT": "true", **os.environ})
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except KeyboardInterrupt:
        process.wait()
        raise SystemExit(130) from None
    if status != 0:
        print(
            f"error: step {name} failed; the same command goes on from here once the cause is mended", file=sys.stderr
        )
        raise SystemExit(os.waitstatus_to_exitcode(status))
    if leaves is not None and not leaves.exists():
        print(
            f"error: step {name} was stopped before it left {leaves}; the same command goes on from here",
            file=sys.stderr,
        )
        raise SystemExit(1)
    # Linux counts kilobytes, macOS bytes.
    peak_memory_mb = usage.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
    return {
        "step": name,
        "command": shlex.join(command),
        "seconds": time.monotonic() - started,
        "peak_memory_mb": peak_memory_mb,
    }


@entry_point("demo")
def main(config: DictConfig) -> None:
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    done = {step["step"]: step for step in finished_steps(out)}
    record: list[dict[str, Any]] = []
    steps = {str(name): [str(argument) for argument in arguments] for name, arguments in config.steps.items()}
    for name, arguments in steps.items():
        command = shlex.join(["python", "-m", *arguments])
        if name in done:
            if done[name]["command"] != command:
                raise WouldOverwrite(
                    f"{out} holds a demo whose step {name} was another: {done[name]['command']}; choose another out=, or delete {out}"
                )
            print(f"[{name}] already done", flush=True)
            record.append(done[name])
            continue
        done = {}  # what follows rests on this step
        leaves = config.leaves.get(name)
        record.append(run_step(name, arguments, leaves and Path(leaves)))
        write_atomically(out / STEPS_FILE, json.dumps(record, indent=1).encode())
    print(f"\n{sum(step['seconds'] for step in record):.0f} s in all; look at {out / 'report' / 'index.html'}")


if __name__ == "__main__":
    main()
