"""`python benchmarks/gpu.py [phase…] [--out file] [--set key=value…]`: what full size takes on this machine's GPU.

Weights are random, batches made up: nothing is downloaded, no shards are needed. Each phase is a process with a time
limit of its own; one that fails or takes longer is told and the next begins. Each result is a line of JSON in `--out`,
with the card, versions and commit. Memory stands beside what `commands/forecast.py` counts; `mfu` is the share of
the card's bf16 peak that the counted operations make. Without names, all phases run, the most telling first.
"""

import argparse
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from lightning.fabric.utilities.throughput import get_available_flops

from lipsync_lightning.cli import build
from lipsync_lightning.commands.forecast import batch_of, count, without_files
from lipsync_lightning.files import CONF_DIR
from lipsync_lightning.models.compiling import compile_blocks

STEPS = {  # experiment and overrides of a training step
    "stage2": ["+experiment=stage2"],
    "stage2_batch_1": ["+experiment=stage2", "data.batch_size=1"],
    "stage1_latents": ["+experiment=stage1_latents"],
    "stage1": ["+experiment=stage1"],
    "stage2_512": ["+experiment=stage2_512", "data.batch_size=1"],
    "syncnet": ["+experiment=syncnet"],
    "stage2_efficient": ["+experiment=stage2_efficient", "data.batch_size=1"],
    "stage1_512": ["+experiment=stage1_512"],
    "stage2_compiled": ["+experiment=stage2", "module.compile=true"],
    "stage2_float32": ["+experiment=stage2", "data.batch_size=1", "trainer.precision=32-true"],
}
LIMITS_S = {**dict.fromkeys(STEPS, 50), "generate": 60, "generate_512": 90, "encode": 40, "stage2_compiled": 120}


def composed(overrides: list[str]) -> Any:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        return compose("train", overrides=overrides)


def built(config: Any, device: str) -> Any:
    """Return the module with random weights on the device, logging nowhere."""
    with torch.device(device), without_files():
        module = build(config.module)
    if config.module.get("compile"):
        compile_blocks(module.unet, module.autoencoder, device=device)
    module.log = module.log_dict = lambda *_, **__: None
    return module.to(device)


def seconds(work: Any, device: str, warm_up: int = 2, measured: int = 5) -> float:
    """Return how long one piece of work takes, on average."""
    for number in range(warm_up + measured):
        if number == warm_up:
            _wait(device)
            started = time.perf_counter()
        work()
    _wait(device)
    return (time.perf_counter() - started) / measured  # pyright: ignore[reportPossiblyUnboundVariable]


def step(config: Any, device: str) -> dict[str, Any]:
    """Return memory, seconds and MFU of a training step, beside the forecast."""
    counted = count(config)
    module, half = built(config, device), config.trainer.precision != "32-true"
    with torch.device(device):
        batch = batch_of(config, module, config.data.batch_size)
    optimizer = module.configure_optimizers()["optimizer"]
    for key, value in batch.items():
        if isinstance(value, torch.Tensor):  # what `torch.empty` has left there may be nan
            batch[key] = torch.zeros_like(value) + 0.1

    def train() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = module.training_step(batch, 0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    taken = seconds(train, device)
    row = {"seconds": taken, "forecast_gib": counted["total_gib"], "tflop": counted["tflop"]}
    if device == "cuda":
        row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        row["reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
        row["of_forecast"] = row["peak_gib"] / row["forecast_gib"]
        peak = get_available_flops(torch.device("cuda"), torch.bfloat16 if half else torch.float32)
        row["mfu"] = counted["tflop"] * 1e12 / taken / peak if peak else None
    return {"batch_size": config.data.batch_size, **row}


def generate(config: Any, device: str, dtype: torch.dtype = torch.bfloat16) -> dict[str, Any]:
    """Return frames a second of inference's sampling, with one window at a time and with four."""
    module, row = built(config, device).eval(), {}
    module.unet.to(dtype)
    for windows in (1, 4):
        with torch.device(device):
            batch = batch_of(config, module, windows)
        batch = {key: value * 0 if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
        work = torch.no_grad()(partial(module.generate, batch))
        row[f"fps_{windows}_windows"] = windows * module.clip.num_frames / seconds(work, device, 1, 2)
    if device == "cuda":
        row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return row


def encode(config: Any, device: str) -> dict[str, Any]:
    """Return frames a second that the VAE encodes, by how many are in it at once."""
    autoencoder, side, row = built(config, device).autoencoder, config.clip.resolution, {}
    frames = torch.zeros(64, 3, side, side, device=device, dtype=autoencoder.dtype)
    for at_a_time in (1, 2, 4, 8, 16, 32, 64):
        autoencoder.frames_at_a_time = at_a_time
        row[f"fps_{at_a_time}_at_a_time"] = len(frames) / seconds(
            torch.no_grad()(partial(autoencoder.encode, frames)), device, 1, 3
        )
    return row


def measured(phase: str, overrides: list[str], device: str) -> dict[str, Any]:
    if phase in STEPS:
        return step(composed([*STEPS[phase], *overrides]), device)
    if phase == "encode":
        return encode(composed(["+experiment=stage1", *overrides]), device)
    return generate(composed([f"+experiment=stage2{phase.removeprefix('generate')}", *overrides]), device)


def about(device: str) -> dict[str, Any]:
    """Return what figures depend on."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    card = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return {"card": card, "torch": torch.__version__, "cuda": torch.version.cuda, "commit": git.stdout.strip()}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    order = ["stage2", "generate", "stage1_latents", "stage2_512", "syncnet", "stage1", *LIMITS_S]
    parser.add_argument("phases", nargs="*", default=list(dict.fromkeys(order)), help=", ".join(LIMITS_S))
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"))
    parser.add_argument("--minutes", type=float, default=8, help="for all phases together")
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", help="overrides, as for train")
    parser.add_argument("--in-this-process", action="store_true", help="how a phase is run")
    asked = parser.parse_args()
    unknown = sorted(set(asked.phases) - set(LIMITS_S))
    if unknown:
        parser.error(f"no phase {', '.join(unknown)}; there are {', '.join(LIMITS_S)}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if asked.in_this_process:
        (phase,) = asked.phases
        row = {"phase": phase, **about(device), **measured(phase, asked.overrides, device)}
        with asked.out.open("a") as out:
            out.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
        return
    began = time.perf_counter()
    for phase in asked.phases:
        limit = min(LIMITS_S[phase], asked.minutes * 60 - (time.perf_counter() - began))
        if limit < 10:
            print(f"{phase}: no time is left of --minutes {asked.minutes:g}", flush=True)
            continue
        command = [sys.executable, __file__, phase, "--out", str(asked.out), "--in-this-process", "--set"]
        try:
            ended = subprocess.run([*command, *asked.overrides], timeout=limit).returncode
            if ended:
                print(f"{phase}: failed with status {ended}", flush=True)
        except subprocess.TimeoutExpired:
            print(f"{phase}: took longer than {limit:.0f} s", flush=True)


if __name__ == "__main__":
    main()
