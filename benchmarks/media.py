"""`python benchmarks/media.py`: how fast media is read, aligned and written on one thread, as a Markdown table.

It makes its own clip: a drawn person, 5 seconds, 208x208 pixels, and that face aligned at 256 pixels.
"""

import time
from collections.abc import Callable

import cv2
import numpy as np
import torch

from lipsync_lightning.media.alignment import align, alignment_matrices, paste_back
from lipsync_lightning.media.clips import decode_planes, encode_clip
from lipsync_lightning.media.mel import log_mel
from lipsync_lightning.synthetic.corpus import SAMPLE_RATE_HZ, ClipPlan, make_clip

RESOLUTION, WINDOW, FPS = 256, 16, 25
NUM_WINDOWS = 10
MEASURED_SECONDS = 1.5


def per_second(amount: float, work: Callable[[], object]) -> float:
    """Return how much of `amount`, done by one call of `work`, is done in a second of CPU time, warmed up."""
    work()
    started, num_calls = time.process_time(), 0
    while (seconds := time.process_time() - started) < MEASURED_SECONDS:
        work()
        num_calls += 1
    return amount * num_calls / seconds


def measure() -> dict[str, tuple[float, str]]:
    """Return each measure's figure and unit."""
    plan = ClipPlan(seed=1, person=0, clip=0, seconds=5.0, leak=0.3, fps=FPS, size=208)
    short = ClipPlan(seed=1, person=1, clip=0, seconds=1.0, leak=0.3, fps=FPS, size=208)
    clip = make_clip(plan)
    matrices = alignment_matrices(clip.points, RESOLUTION)
    faces = [align(frame, matrix, RESOLUTION) for frame, matrix in zip(clip.frames, matrices, strict=True)]
    mp4 = encode_clip(faces, fps=FPS)
    starts = [int(start) for start in np.random.default_rng(0).integers(0, len(faces) - WINDOW + 1, size=NUM_WINDOWS)]
    waveform = torch.from_numpy(clip.utterance.waveform)
    few = list(zip(clip.frames, faces, matrices, strict=True))[:25]
    return {
        "drawing the corpus: `make_clip`, 208 px": (per_second(FPS, lambda: make_clip(short)), "frames/s"),
        "`align`, 208 px frame to 256 px face": (
            per_second(len(few), lambda: [align(f, m, RESOLUTION) for f, _, m in few]),
            "frames/s",
        ),
        "`paste_back`, 256 px face to 208 px frame": (
            per_second(len(few), lambda: [paste_back(f, a, m) for f, a, m in few]),
            "frames/s",
        ),
        "`encode_clip`, 256 px": (per_second(len(faces), lambda: encode_clip(faces, fps=FPS)), "frames/s"),
        "`decode_planes`, 16 frames of 256 px": (
            per_second(NUM_WINDOWS, lambda: decode_planes(mp4, starts, WINDOW)),
            "windows/s",
        ),
        "`log_mel`, 80 bins at 80 Hz": (
            per_second(len(waveform) / SAMPLE_RATE_HZ, lambda: log_mel(waveform)),
            "s of sound/s",
        ),
    }


def main() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    print("| what | rate |\n| --- | ---: |")
    for name, (figure, unit) in measure().items():
        print(f"| {name} | {figure:,.0f} {unit} |")


if __name__ == "__main__":
    main()
