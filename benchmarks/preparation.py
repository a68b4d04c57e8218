"""`python benchmarks/preparation.py <video>…`: CPU seconds per second of video, beside the published steps.

The published steps are the commands LatentSync's public pipeline runs, one after another, each writing videos that the
next one reads: re-encoding to 25 frames per second, PySceneDetect with splitting, segmenting, aligning whole frames.
They need `ffmpeg` on the PATH or `pip install imageio-ffmpeg`. Face search is counted for ours and not for theirs.
"""

import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from scenedetect import AdaptiveDetector, detect

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.media.alignment import Aligner, align
from lipsync_lightning.media.audio import encode_flac, read_audio
from lipsync_lightning.media.clips import encode_clip
from lipsync_lightning.media.mux import video_writer
from lipsync_lightning.media.people import MeshPeople
from lipsync_lightning.media.shots import AdaptiveShots
from lipsync_lightning.media.video import open_media, probe, read_frames, video_stream
from lipsync_lightning.preparation.clips import clips_of_source
from lipsync_lightning.preparation.filters.check import Check
from lipsync_lightning.preparation.recipe import Recipe
from lipsync_lightning.preparation.sources import Source
from lipsync_lightning.preparation.sources.folder import FolderSources
from lipsync_lightning.preparation.split import SplitByHash

CLIP = ClipSpec(num_frames=16, fps=25, resolution=256, sample_rate_hz=16000, mel_hz=80, num_mels=80)
SHOTS = AdaptiveShots(threshold=3.0, min_content=15.0, window=2, min_shot_seconds=0.6)
PEOPLE = MeshPeople(search_every=5, most_people=4, min_side=96)


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds of a call, those of programs it runs included."""

    def used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime

    started = used()
    work()
    return used() - started


def our_steps(video: Path) -> dict[str, float]:
    """Return CPU seconds by step, and of the whole road in one go."""
    frames = list(read_frames(video, fps=CLIP.fps))
    tracker = PEOPLE.for_video(video)
    points = [tracker.people(frame)[0].points for frame in frames]
    aligner = Aligner(resolution=CLIP.resolution)
    matrices = [aligner.matrix(each) for each in points]
    faces = [align(frame, matrix, CLIP.resolution) for frame, matrix in zip(frames, matrices, strict=True)]
    sound = read_audio(video, CLIP.sample_rate_hz)
    again = PEOPLE.for_video(video)
    return {
        "check and sound": cpu_seconds(lambda: (probe(video), read_audio(video, CLIP.sample_rate_hz))),
        "decoding": cpu_seconds(lambda: decode_only(video)),
        "to RGB": cpu_seconds(lambda: read_only(video)) - cpu_seconds(lambda: decode_only(video)),
        "shots": cpu_seconds(lambda: list(SHOTS(frames, float(CLIP.fps)))),
        "face search and tracking": cpu_seconds(lambda: [again.people(frame) for frame in frames]),
        "alignment": cpu_seconds(
            lambda: [align(frame, matrix, CLIP.resolution) for frame, matrix in zip(frames, matrices, strict=True)]
        ),
        "writing": cpu_seconds(lambda: (encode_clip(faces, fps=CLIP.fps), encode_flac(sound, CLIP.sample_rate_hz))),
        "**the whole road, in one go**": cpu_seconds(lambda: whole_road(video)),
    }


def decode_only(video: Path) -> None:
    with open_media(video) as container:
        stream = video_stream(container)
        assert stream is not None
        stream.codec_context.thread_count = 1
        for _ in container.decode(stream):
            pass


def read_only(video: Path) -> None:
    for _ in read_frames(video, fps=CLIP.fps):
        pass


def whole_road(video: Path) -> None:
    recipe = Recipe(
        name="benchmark",
        source=str(video.parent),
        sources=FolderSources(root=str(video.parent)),
        split=SplitByHash(num_heldout=0, identity=".+"),
        check=Check(min_seconds=2, min_fps=10, min_side=128, min_dbfs=-60),
        shots=SHOTS,
        people=PEOPLE,
        min_seconds=2,
        max_seconds=10,
        sync=None,
        quality=None,
    )
    assert clips_of_source(Source(name=video.name, video=video), recipe, CLIP)


def published_steps(video: Path, ffmpeg: str, folder: Path) -> dict[str, float]:
    """Return CPU seconds by step of the published pipeline, on one thread."""
    quiet = [ffmpeg, "-loglevel", "error", "-threads", "1", "-y"]
    resampled, aligned = folder / "resampled.mp4", folder / "aligned.mp4"
    to_segments = ["-map", "0", "-c", "copy", "-f", "segment", "-segment_time", "5", "-reset_timestamps", "1"]
    segment, shot = str(folder / "segment_%03d.mp4"), str(folder / "shot.mp4")

    def run(*arguments: str) -> None:
        subprocess.run([*quiet, *arguments], check=True)

    def split_at_shots() -> None:
        scenes = detect(str(resampled), AdaptiveDetector(), start_in_scene=True, backend="pyav")
        for start, end in scenes:
            span = ["-ss", str(start.seconds), "-i", str(resampled), "-t", str(end.seconds - start.seconds)]
            run(*span, "-c:v", "libx264", "-preset", "veryfast", "-crf", "22", "-threads", "1", "-c:a", "aac", shot)

    def align_whole_frames() -> None:
        tracker, aligner = PEOPLE.for_video(resampled), Aligner(resolution=CLIP.resolution)
        frames = list(opencv_frames(resampled))
        matrices = [aligner.matrix(tracker.people(frame)[0].points) for frame in frames]
        steps["alignment: reading"] = cpu_seconds(lambda: list(opencv_frames(resampled)))
        steps["alignment: warping whole frames"] = cpu_seconds(
            lambda: [warped(f, m) for f, m in zip(frames, matrices, strict=True)]
        )
        steps["alignment: writing"] = cpu_seconds(
            lambda: written(aligned, [warped(f, m) for f, m in zip(frames, matrices, strict=True)])
        )
        steps["alignment: writing"] -= steps["alignment: warping whole frames"]

    steps: dict[str, float] = {}
    encode = ["-c:v", "libx264", "-crf", "18", "-threads", "1", "-c:a", "aac", "-ar", "16000"]
    steps["re-encoding to 25 fps, 16 kHz"] = cpu_seconds(
        lambda: run("-i", str(video), "-r", "25", *encode, str(resampled))
    )
    steps["shots with splitting"] = cpu_seconds(split_at_shots)
    steps["segmenting by stream copy"] = cpu_seconds(lambda: run("-i", str(resampled), *to_segments, segment))
    align_whole_frames()
    return steps


def opencv_frames(video: Path) -> Iterator[np.ndarray]:
    capture = cv2.VideoCapture(str(video), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    while True:
        there, frame = capture.read()
        if not there:
            return
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def warped(frame: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    side = CLIP.resolution
    canvas = cv2.warpAffine(
        frame.astype(np.float32), matrix, (side * 210 // 256, side * 280 // 256), borderValue=(127.0,) * 3
    )
    return cv2.resize(canvas.astype(np.uint8), (side, side), interpolation=cv2.INTER_LANCZOS4)


def written(path: Path, faces: list[np.ndarray]) -> None:
    with video_writer(
        path, width=CLIP.resolution, height=CLIP.resolution, fps=CLIP.fps, crf=13, preset="medium"
    ) as write:
        for face in faces:
            write(face)


def ffmpeg_program() -> str | None:
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ImportError:
        return shutil.which("ffmpeg")
    return get_ffmpeg_exe()


def main() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    ffmpeg = ffmpeg_program()
    for video in map(Path, sys.argv[1:]):
        info = probe(video)
        print(f"\n{video.name}: {info.width}×{info.height}, {info.duration_s:.1f} s")
        print("\n| step | CPU s per s of video |\n| --- | ---: |")
        ours = our_steps(video)
        for step, seconds in ours.items():
            print(f"| {step} | {seconds / info.duration_s:.3f} |")
        if ffmpeg is not None:
            with tempfile.TemporaryDirectory() as folder:
                theirs = published_steps(video, ffmpeg, Path(folder))
            for step, seconds in theirs.items():
                print(f"| published: {step} | {seconds / info.duration_s:.3f} |")
            total = sum(theirs.values())
            whole = list(ours.values())[-1]
            print(f"| **published: sum** | {total / info.duration_s:.3f} |")
            print(f"\nThe whole road takes {whole / total:.2f} of the published sum.")


if __name__ == "__main__":
    main()
