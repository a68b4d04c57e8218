"""`python -m lipsync_lightning.infer`: lip-sync a video, or many, or show who is in one."""

import json
import os
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import DictConfig

from lipsync_lightning.cli import build, one_sentence
from lipsync_lightning.errors import BadConfig, LipSyncError, StepFailed
from lipsync_lightning.files import csv_rows, write_atomically
from lipsync_lightning.media.strips import save_png
from lipsync_lightning.pipeline.choice import EveryoneListed
from lipsync_lightning.pipeline.lipsync import LipSyncPipeline, load_pipeline
from lipsync_lightning.pipeline.provenance import sign
from lipsync_lightning.pipeline.result import LipSyncResult

OF_A_CALL = ("video", "audio", "out", "segments", "face", "length", "extend", "start", "end", "sound_offset")
OF_A_CALL += ("speak_silence", "audio_track", "seed", "num_inference_steps", "guidance_scale", "solver")
OF_A_CALL += ("deep_features_every", "windows_at_a_time", "overlap", "pasting", "keep_sound", "crf", "preset")
_PATHS = ("video", "audio", "out", "segments")
_AS_WRITTEN = (*_PATHS, "face", "audio_track")


def device_and_dtype(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """Return both by their names. Raises: BadConfig, if there is no such device or floating-point type."""
    kind = getattr(torch, dtype, None)
    if not (isinstance(kind, torch.dtype) and kind.is_floating_point):
        raise BadConfig(f"dtype={dtype} is no floating-point type of torch; give float32, bfloat16 or float16")
    try:
        return torch.empty(0, device=device).device, kind
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BadConfig(f"device={device} cannot be used here: {str(error).splitlines()[0]}; try device=cpu") from error


def ready_pipeline(config: DictConfig) -> LipSyncPipeline:
    """Return the pipeline of `model`, placed as the configuration says."""
    device, dtype = device_and_dtype(config.device, config.dtype)
    options = {name: config[name] for name in ("decoder", "compile", "offload")}
    return load_pipeline(config.model).place(device, dtype, **options)


def run(config: DictConfig) -> None:
    faces: Any = build(config.faces)
    if isinstance(faces, EveryoneListed):
        save_png(config.out, faces.sheet(Path(config.video), config.start, config.end))
        print(config.out)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: half a file is not left behind
    if config.report is not None:
        Path(config.report).parent.mkdir(parents=True, exist_ok=True)
        if not os.access(Path(config.report).parent, os.W_OK):
            raise BadConfig(f"report={config.report} cannot be written there; choose another place")
    jobs = [] if config.batch is None else _jobs(Path(config.batch))
    pipeline = ready_pipeline(config)
    options: dict[str, Any] = {name: config[name] for name in OF_A_CALL}
    options |= {"faces": faces, "fitness": build(config.fitness), "occluder": build(config.occluder)}
    if config.batch is None:
        _speak(pipeline, options, config)
    else:
        _speak_all(Path(config.batch), jobs, pipeline, options, config)


def _speak(pipeline: LipSyncPipeline, options: dict[str, Any], config: DictConfig) -> LipSyncResult:
    result: Any = pipeline(**options)
    if config.c2pa.certificate is not None:
        sign(result.path, config.c2pa.certificate, config.c2pa.key, result.facts)
    synced = f"{result.num_synced} of {result.num_frames} frames lip-synced"
    left = [f"{each.start_s:.2f} to {each.end_s:.2f} s left alone: {each.reason}" for each in result.left_alone]
    print(f"{result.path}: {synced}, {result.seconds:.2f} s of picture", *result.told, *left, sep="\n  ")
    if config.report is not None:
        told = asdict(replace(result, frames=None))
        write_atomically(Path(config.report), json.dumps(told, indent=1, default=str).encode())
    return result


def _speak_all(
    batch: Path, rows: list[dict[str, Any]], pipeline: LipSyncPipeline, options: dict[str, Any], config: DictConfig
) -> None:
    """Do the jobs of a csv, a row each, and write what became of them beside it. Raises: StepFailed, if one failed."""
    report = batch.with_suffix(".report.csv")
    done: list[dict[str, Any]] = []
    for number, row in enumerate(rows, 1):
        print(f"[{number} of {len(rows)}] {row['out']}")
        try:
            result = _speak(pipeline, {**options, **row}, config)
            became = {"synced": result.num_synced, "frames": result.num_frames, "error": ""}
        except (LipSyncError, OSError) as error:
            became = {"synced": 0, "frames": 0, "error": one_sentence(error)}
            print(f"error: {became['error']}", file=sys.stderr)
        done.append({"out": row["out"], **became})
        lines = [",".join(done[0]), *(",".join(_quoted(value) for value in each.values()) for each in done)]
        write_atomically(report, "\n".join([*lines, ""]).encode())
    failed = sum(bool(each["error"]) for each in done)
    print(f"{len(done) - failed} of {len(done)} done; {report}")
    if failed:
        raise StepFailed(f"{failed} of {len(done)} jobs failed; {report} says why")


def _jobs(batch: Path) -> list[dict[str, Any]]:
    """Return the options of each row; paths are seen from the csv's folder. Raises: BadConfig, for another file."""
    jobs = []
    for number, row in enumerate(csv_rows(batch, "batch", {"video", "out"}, set(OF_A_CALL)), 2):
        try:
            values = {name: cell if name in _AS_WRITTEN else yaml.safe_load(cell) for name, cell in row.items() if cell}
        except yaml.YAMLError as error:
            raise BadConfig(f"batch={batch}, row {number}: {' '.join(str(error).split())}") from error
        jobs.append({name: str(batch.parent / v) if name in _PATHS else v for name, v in values.items()})
    outs = [Path(job["out"]).resolve() for job in jobs]
    if twice := [out for number, out in enumerate(outs) if out in outs[:number]]:
        raise BadConfig(f"batch={batch} names out={twice[0]} twice; give every job its own")
    return jobs


def _quoted(value: Any) -> str:
    return '"' + str(value).replace('"', '""') + '"'
