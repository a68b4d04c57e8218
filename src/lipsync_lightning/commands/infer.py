"""`python -m lipsync_lightning.infer`: lip-sync a video, or many, or show who is in one."""

import csv
import json
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
from lipsync_lightning.files import write_atomically
from lipsync_lightning.media.strips import save_png
from lipsync_lightning.pipeline.choice import EveryoneListed
from lipsync_lightning.pipeline.lipsync import LipSyncPipeline, load_pipeline
from lipsync_lightning.pipeline.provenance import sign
from lipsync_lightning.pipeline.result import LipSyncResult

OF_A_CALL = ("video", "audio", "out", "segments", "face", "length", "extend", "start", "end", "sound_offset")
OF_A_CALL += ("speak_silence", "audio_track", "seed", "num_inference_steps", "guidance_scale", "solver")
OF_A_CALL += ("deep_features_every", "windows_at_a_time", "overlap", "pasting", "keep_sound", "crf", "preset")
_PATHS = ("video", "audio", "out", "segments", "report")


def device_and_dtype(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """Return both by their names. Raises: BadConfig, if there is no such device or floating-point type."""
    kind = getattr(torch, dtype, None)
    if not (isinstance(kind, torch.dtype) and kind.is_floating_point):
        raise BadConfig(f"dtype={dtype} is no floating-point type of torch; give float32, bfloat16 or float16")
    try:
        return torch.empty(0, device=device).device, kind
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BadConfig(f"device={device} cannot be used here: {str(error).splitlines()[0]}; try device=cpu") from error


def run(config: DictConfig) -> None:
    faces: Any = build(config.faces)
    if isinstance(faces, EveryoneListed):
        save_png(config.out, faces.sheet(Path(config.video)))
        print(config.out)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: half a file is not left behind
    device, dtype = device_and_dtype(config.device, config.dtype)
    pipeline = load_pipeline(config.model)
    pipeline.place(device, dtype, **{name: config[name] for name in ("decoder", "compile", "offload")})
    options: dict[str, Any] = {name: config[name] for name in OF_A_CALL}
    options |= {"faces": faces, "fitness": build(config.fitness), "occluder": build(config.occluder)}
    if config.batch is None:
        _speak(pipeline, options, config)
    else:
        _speak_all(Path(config.batch), pipeline, options, config)


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


def _speak_all(batch: Path, pipeline: LipSyncPipeline, options: dict[str, Any], config: DictConfig) -> None:
    """Do the jobs of a csv, a row each, and write what became of them beside it. Raises: StepFailed, if one failed."""
    report, rows = batch.with_suffix(".report.csv"), _jobs(batch)
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
    try:
        with batch.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadConfig(f"batch={batch} cannot be read ({error}); give a csv file") from error
    columns = set(rows[0]) if rows else set()
    if not {"video", "out"} <= columns or not columns <= set(OF_A_CALL):
        known = ",".join(OF_A_CALL)
        raise BadConfig(
            f"batch={batch} has columns {','.join(map(str, columns))}; video and out are needed, of {known}"
        )
    return [
        {
            name: str(batch.parent / cell) if name in _PATHS else cell if name == "face" else yaml.safe_load(cell)
            for name, cell in row.items()
            if cell
        }
        for row in rows
    ]


def _quoted(value: Any) -> str:
    return '"' + str(value).replace('"', '""') + '"'
