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

from lipsync_lightning.errors import StepFailed, WouldOverwrite
from lipsync_lightning.files import write_atomically

STEPS_FILE = "steps.json"  # in the demo's folder: what was done, how long it took, what it needed


def run_step(name: str, arguments: list[str], leaves: str | None) -> dict[str, Any]:
    """Run one command, and return its name, command line, seconds, and the memory of its largest process.

    Args: leaves: what is there once the step is done. A training that a signal stopped ends with status 0 without it.
    Raises: StepFailed, if the command fails or was stopped.
    """
    command = ["python", "-m", *arguments]
    print(f"\n[{name}] {shlex.join(command)}", flush=True)
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, *command[1:]], env={"WANDB_SILENT": "true", **os.environ})
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except KeyboardInterrupt:
        process.wait()  # it was interrupted too, and ends its work first
        raise
    if status != 0 or (leaves is not None and not Path(leaves).exists()):
        how = f"failed with status {os.waitstatus_to_exitcode(status)}" if status else f"was stopped before {leaves}"
        raise StepFailed(f"step {name} {how}; see above, and run the same command again to go on from here")
    return {
        "step": name,
        "command": shlex.join(command),
        "seconds": time.monotonic() - started,
        # Linux counts kilobytes, macOS bytes.
        "peak_memory_mb": usage.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2),
    }


def run(config: DictConfig) -> None:
    out = Path(config.out)
    log = out / STEPS_FILE
    done = {step["step"]: step for step in json.loads(log.read_text())} if log.is_file() else {}
    record: list[dict[str, Any]] = []
    for name, arguments in config.steps.items():
        command = shlex.join(["python", "-m", *arguments])
        if name not in done:
            done = {}  # what follows rests on this step
            record.append(run_step(name, list(arguments), config.leaves.get(name)))
            write_atomically(log, json.dumps(record, indent=1).encode())
            continue
        if done[name]["command"] != command:
            before = f"{out} holds a demo whose step {name} was another: {done[name]['command']}"
            raise WouldOverwrite(f"{before}; choose another out=, or delete {out}")
        print(f"[{name}] already done", flush=True)
        record.append(done[name])
    print(f"\n{sum(step['seconds'] for step in record):.0f} s in all; look at {out / 'report' / 'index.html'}")
