"""`python benchmarks/inference.py [model=<export>] [video=<mp4>] [decoder=<folder>] [device=cpu] [compile=true]`.

Prints two Markdown tables. First, each way of inference: frames a second of a whole call, model and media together, and
how near its faces come to the exact ones. Without a model, a U-Net of the demo's shape with random weights stands in,
whose faces are noise: its speed means something, its quality nothing. On a CPU, seconds are those that it works. Then
milliseconds of one core for a frame of the video, step by step. Without a video, a drawn person, 1080x1920.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import av
import cv2
import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from omegaconf import OmegaConf

from lipsync_lightning.cli import build
from lipsync_lightning.commands.infer import device_and_dtype
from lipsync_lightning.errors import MissingWeights
from lipsync_lightning.files import CONF_DIR
from lipsync_lightning.media.alignment import align, alignment_matrices, paste_back
from lipsync_lightning.media.frames import to_float
from lipsync_lightning.media.h264 import add_h264, to_yuv
from lipsync_lightning.media.masks import keep_mask
from lipsync_lightning.media.mux import video_writer
from lipsync_lightning.media.people import MeshPeople, SidecarPeople
from lipsync_lightning.media.video import read_frames, to_rgb
from lipsync_lightning.models.audio_encoder import LogMelAudioEncoder
from lipsync_lightning.models.autoencoder import LinearAutoencoder, PatchMoments
from lipsync_lightning.pipeline import lipsync
from lipsync_lightning.pipeline.lipsync import LipSyncPipeline, load_pipeline
from lipsync_lightning.synthetic.corpus import write_corpus

NUM_FRAMES = 50  # of the media table
SCHEDULE: Any = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
PRESETS = ("veryfast", "superfast", "ultrafast")


def stand_in(frames: np.ndarray) -> LipSyncPipeline:
    """Return a pipeline of the demo's shape with random weights, its autoencoder fitted to frames (T, H, W, 3)."""
    conf = CONF_DIR / "models"
    shape: Any = OmegaConf.load(conf / "unet" / "demo_stage1.yaml")
    unet = build(OmegaConf.merge(shape, {"motion": "all"}))
    torch.nn.init.normal_(unet.conv_out.weight, std=0.02)
    autoencoder, moments = LinearAutoencoder(patch=4, latent_channels=12), PatchMoments(patch=4)
    moments.update(torch.movedim(to_float(frames), 3, 1))
    autoencoder.fit_from_moments(moments.count, moments.total, moments.outer)
    sound = {"sample_rate_hz": 16000, "mel_hz": 80, "num_mels": 80}
    return LipSyncPipeline(
        unet=unet.eval(),
        autoencoder=autoencoder,
        audio_encoder=LogMelAudioEncoder(num_tokens=8, columns_per_token=2, **sound),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, **SCHEDULE),
        clip={"num_frames": 16, "fps": 25, "resolution": 64, **sound},
    )


@contextmanager
def faces_seen() -> Iterator[list[torch.Tensor]]:
    """Yield a list that faces are added to as the model makes them, before they are rounded."""
    seen: list[torch.Tensor] = []
    real = lipsync.to_uint8
    with patch.object(lipsync, "to_uint8", lambda faces: real(seen.append(faces.float().cpu()) or faces)):
        yield seen


def ways(steps: int, asked: dict[str, str]) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Return what each way changes: how the pipeline is placed, and options of its call."""
    half, quarter = max(1, steps // 2), max(1, steps // 4)
    found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "exact": ({}, {}),
        "windows_at_a_time=4": ({}, {"windows_at_a_time": 4}),
        "offload=true": ({"offload": True}, {}),
        "guidance_scale=1": ({}, {"guidance_scale": 1.0}),
    }
    for number in dict.fromkeys((half, quarter)):
        found[f"num_inference_steps={number}"] = ({}, {"num_inference_steps": number})
        found[f"num_inference_steps={number} solver=dpm"] = ({}, {"num_inference_steps": number, "solver": "dpm"})
    for every in (2, 3):
        found[f"deep_features_every={every}"] = ({}, {"deep_features_every": every})
    fastest = {"num_inference_steps": half, "solver": "dpm", "deep_features_every": 2}
    found[" ".join(f"{key}={value}" for key, value in fastest.items())] = ({}, fastest)
    for dtype in ("bfloat16", "float16") if "cuda" in asked.get("device", "cpu") else ():
        found[f"dtype={dtype}"] = ({"dtype": getattr(torch, dtype)}, {})
    if "decoder" in asked:
        found["decoder=<folder>"] = ({"decoder": asked["decoder"]}, {})
    if asked.get("compile") == "true":
        found["compile=true"] = ({"compile": True}, {})
    return found


def print_ways(asked: dict[str, str], folder: Path) -> None:
    device, dtype = device_and_dtype(asked.get("device", "cpu"), asked.get("dtype", "float32"))
    people = {"people": range(2), "clips_per_person": 1, "seconds": 1.28, "seed": 3, "leak": 0.3, "num_workers": 1}
    video, sound = write_corpus(out=folder, **people)
    loaded = load_pipeline(asked["model"]) if "model" in asked else stand_in(np.stack(list(read_frames(video))))
    made = keep_mask(loaded.clip.resolution, loaded.config["mask"]) == 0
    exact: torch.Tensor | None = None
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    print(f"{asked.get('model', 'random weights')}, {loaded.clip.resolution} pixels, {device}\n")
    print("| way | frames/s | PSNR to the exact faces, dB |\n| --- | ---: | ---: |")
    for name, (placed, options) in ways(loaded.config["num_inference_steps"], asked).items():
        pipeline = deepcopy(loaded).place(device, **{"dtype": dtype, **placed})
        pipeline.set_progress_bar_config(disable=True)
        call = {"video": video, "audio": sound, "out": folder / "out.mp4", "faces": SidecarPeople(), **options}
        pipeline(**{**call, "num_inference_steps": 1, "deep_features_every": 1})  # warm, and compiled
        with faces_seen() as seen:
            started = clock()
            num_frames = pipeline(**call).num_frames
            seconds = clock() - started
        faces = torch.cat(seen)[..., made]
        exact = faces if exact is None else exact
        error = float((faces - exact).double().square().mean())
        quality = f"{10 * np.log10(4 / error):.1f}" if error > 1e-12 else "the same"
        print(f"| `{name}` | {num_frames / seconds:.1f} | {quality} |", flush=True)


def drawn_upright(folder: Path) -> tuple[Path, np.ndarray]:
    """Return a 1080x1920 video of a drawn person and the points of the face, (T, 3, 2)."""
    (square,) = write_corpus(
        out=folder, people=range(1), clips_per_person=1, seconds=2.0, seed=4, leak=0.3, num_workers=1, size=1080
    )
    points = np.array(json.loads(square.with_suffix(".json").read_text())["points"]) + np.array([0, 420])
    upright = folder / "upright.mp4"
    with video_writer(upright, width=1080, height=1920, fps=25) as write:
        for frame in read_frames(square):
            write(np.pad(frame, ((420, 420), (0, 0), (0, 0)), mode="edge"))
    return upright, points


def print_media(asked: dict[str, str], folder: Path, resolution: int) -> None:
    def per_frame(work: Callable[[], Any]) -> tuple[float, Any]:
        """Return milliseconds of CPU for a frame, the best of three, and what the work gave."""
        best, result = float("inf"), None
        for _ in range(3):
            started = time.process_time()
            result = work()
            best = min(best, time.process_time() - started)
        return 1000 * best / len(result), result

    def decoded() -> list[av.VideoFrame]:
        with av.open(str(video)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            return list(islice(container.decode(video=0), NUM_FRAMES))

    def encoded(preset: str) -> list[av.VideoFrame]:
        with av.open(str(folder / "encoded.mp4"), "w") as container:
            options = {"crf": "18", "preset": preset}
            stream = add_h264(container, width=width, height=height, fps=Fraction(25), options=options)
            stream.codec_context.thread_count = 1
            for frame in yuv:
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return yuv

    rows: dict[str, float] = {}
    video, points = (Path(asked["video"]), None) if "video" in asked else drawn_upright(folder)
    rows["decoding"], raw = per_frame(decoded)
    rows["to RGB"], frames = per_frame(lambda: [to_rgb(frame) for frame in raw])
    height, width = frames[0].shape[:2]
    try:
        rows["face search"], found = per_frame(lambda: list(map(MeshPeople().for_video(video), frames)))
        points = np.stack(found) if points is None else points
    except MissingWeights:
        if points is None:
            raise
    placed = list(zip(frames, alignment_matrices(points[: len(frames)], resolution), strict=True))
    rows["alignment"], faces = per_frame(lambda: [align(frame, matrix, resolution) for frame, matrix in placed])
    new = [(frame, cv2.GaussianBlur(face, (3, 3), 0), m) for (frame, m), face in zip(placed, faces, strict=True)]
    mask = 1 - keep_mask(resolution).numpy()
    rows["pasting"], pasted = per_frame(lambda: [paste_back(*each, mask) for each in new])
    with av.open(str(folder / "unused.mp4"), "w") as container:
        stream = add_h264(container, width=width, height=height, fps=Fraction(25), options={})
        rows["to YUV"], yuv = per_frame(lambda: [to_yuv(frame, stream, n) for n, frame in enumerate(pasted)])
        container.mux(stream.encode(yuv[0]))
        container.mux(stream.encode(None))
    rows["decoding and RGB once more, for the first look"] = rows["decoding"] + rows["to RGB"]
    before_x264 = sum(rows.values())
    for preset in PRESETS:
        rows[f"x264 `{preset}`"] = per_frame(lambda preset=preset: encoded(preset))[0]
        kilobytes = (folder / "encoded.mp4").stat().st_size / 1000 / len(yuv)
        rows[f"**all, `{preset}`** ({kilobytes:.0f} kB a frame)"] = before_x264 + rows[f"x264 `{preset}`"]
    print(f"\n| step, {width}x{height}, face {resolution} | ms |\n| --- | ---: |")
    for name, milliseconds in rows.items():
        print(f"| {name} | {milliseconds:.1f} |")


def main() -> None:
    asked = dict(argument.split("=", 1) for argument in sys.argv[1:])
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print_ways(asked, Path(folder) / "clips")
        for resolution in (256, 512):
            print_media(asked, Path(folder) / "media", resolution)


if __name__ == "__main__":
    main()
