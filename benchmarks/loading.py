"""`python benchmarks/loading.py`: training samples per second of CPU time on one core, by what the shards hold, beside the plain way.

It draws its own clips: 24 people, 10 seconds each, faces of 256 pixels. Latents and audio tokens are random numbers of the released
networks' shapes, since only their bytes matter here. The plain way opens a video written with FFmpeg's default group of 250 frames, decodes
each window from its start, resizes it bicubically and computes the log-mel of each sample's own sound. JPEG (frames of quality 95, one
clip that stays in memory) is measured for comparison only; shards do not hold any.
"""

import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import default_collate

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data.datamodule import ClipDataModule
from lipsync_lightning.data.latent_samples import (
    ENCODED,
    ENCODED_AUDIO_BY,
    LATENTS,
    TOKENS,
    LatentSamples,
    stored_array,
)
from lipsync_lightning.data.samples import Samples, SyncNetSamples, UNetSamples, clip_mel, clip_waveform, frames_tensor
from lipsync_lightning.media.audio import encode_flac
from lipsync_lightning.media.mel import log_mel, mel_window
from lipsync_lightning.media.mux import add_h264, encode_clip, to_yuv
from lipsync_lightning.media.resampling import exact
from lipsync_lightning.media.video import to_rgb
from lipsync_lightning.models.audio_encoder import LogMelAudioEncoder
from lipsync_lightning.models.weights_io import fingerprint_with_settings
from lipsync_lightning.shards.format import FinishedClip, write_shard
from lipsync_lightning.synthetic.corpus import ClipPlan, make_clip

CLIP = ClipSpec(num_frames=16, fps=25, resolution=256, sample_rate_hz=16000, mel_hz=80, num_mels=80)
NUM_CLIPS, SECONDS = 24, 10.0
MEASURED_SECONDS = 10.0
FLATNESS_SAMPLES = 10_000
LATENT_SHAPE, TOKEN_SHAPE = (2, 2, 4, 32, 32), (50, 384)
AUDIO_ENCODER = LogMelAudioEncoder(num_tokens=8, columns_per_token=2, sample_rate_hz=16000, mel_hz=80, num_mels=80)


def drawn_clips() -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
    for person in range(NUM_CLIPS):
        clip = make_clip(
            ClipPlan(seed=1, person=person, clip=0, seconds=SECONDS, leak=0.3, fps=CLIP.fps, size=CLIP.resolution)
        )
        yield list(clip.frames), clip.utterance.waveform


def long_groups(frames: list[np.ndarray]) -> bytes:
    """Return an mp4 as FFmpeg writes it unasked: a key frame every 250."""
    data = BytesIO()
    with av.open(data, "w", format="mp4") as container:
        stream = add_h264(
            container, width=CLIP.resolution, height=CLIP.resolution, fps=exact(CLIP.fps), options={"crf": "18"}
        )
        for number, frame in enumerate(frames):
            container.mux(stream.encode(to_yuv(frame, stream, number)))
        container.mux(stream.encode(None))
    return data.getvalue()


def make_shards(folder: Path) -> list[tuple[Path, np.ndarray]]:
    """Write shards of pixels, and of latents, and return the plain videos with their sound."""
    rng = np.random.default_rng(0)
    plain, pixels, latents = [], [], []
    for number, (frames, waveform) in enumerate(drawn_clips()):
        path = folder / f"{number}.mp4"
        path.write_bytes(long_groups(frames))
        plain.append((path, waveform))
        num_frames, key = len(frames), f"d/{number}/000000-0"
        members = {"mp4": encode_clip(frames, fps=CLIP.fps), "flac": encode_flac(waveform, CLIP.sample_rate_hz)}
        facts: dict[str, Any] = {"num_frames": num_frames}
        pixels.append(FinishedClip(key, num_frames, {**members, "json": json.dumps(facts).encode()}))
        arrays = {
            LATENTS: rng.normal(size=(num_frames, *LATENT_SHAPE)),
            TOKENS: rng.normal(size=(num_frames, *TOKEN_SHAPE)),
        }
        stored = {suffix: stored_array(array) for suffix, array in arrays.items()}
        facts[ENCODED] = {
            "made_by": "benchmark",
            "mask": "released",
            ENCODED_AUDIO_BY: fingerprint_with_settings(AUDIO_ENCODER),
            **{suffix: told for suffix, (_, told) in stored.items()},
        }
        contents = {suffix: content for suffix, (content, _) in stored.items()}
        latents.append(FinishedClip(key, num_frames, {**contents, "json": json.dumps(facts).encode()}))
    write_shard(folder / "pixels" / "train" / "000000.tar", pixels, clip=CLIP)
    write_shard(folder / "latents" / "train" / "000000.tar", latents, clip=CLIP)
    return plain


def samples_per_second(shards: Path, samples: Samples, batch_size: int) -> float:
    """Return windows per CPU second of a data module without workers, collation included."""
    settings: dict[str, Any] = {
        "num_workers": 0,
        "seed": 1,
        "shuffle_buffer": 128,
        "max_bad_clips": 0,
        "batch_size": batch_size,
    }
    data = ClipDataModule(shards=str(shards), clip=CLIP, samples=samples, **settings)
    batches = iter(data.train_dataloader())
    return rate(lambda: len(next(batches)["id"]))


def rate(work: Callable[[], int]) -> float:
    """Return how many samples `work`, which returns how many it made, makes in a second of CPU time; one call goes before."""
    work()
    started, done = time.process_time(), 0
    while (seconds := time.process_time() - started) < MEASURED_SECONDS:
        done += work()
    return done / seconds


def plain_windows(path: Path, starts: list[int]) -> list[torch.Tensor]:
    windows = []
    for start in starts:
        with av.open(str(path)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            frames = [
                to_rgb(frame)
                for frame in container.decode(container.streams.video[0])
                if frame.time * CLIP.fps < start + 15.5
            ]
        chosen = (
            torch.from_numpy(np.stack(frames[start : start + CLIP.num_frames])).permute(0, 3, 1, 2).float() / 127.5 - 1
        )
        windows.append(F.interpolate(chosen, size=(CLIP.resolution, CLIP.resolution), mode="bicubic"))
    return windows


def plain_sample(plain: list[tuple[Path, np.ndarray]], rng: np.random.Generator, num_windows: int) -> int:
    path, waveform = plain[int(rng.integers(len(plain)))]
    last = int(SECONDS * CLIP.fps) - CLIP.num_frames - 2
    plain_windows(path, [int(start) for start in rng.integers(0, last, size=num_windows)])
    log_mel(torch.from_numpy(waveform))
    return 1


def jpeg_frames(frames: list[np.ndarray]) -> list[bytes]:
    return [
        cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
        for frame in frames
    ]


class JpegClip:
    """A clip whose frames are pictures of their own, and what its windows cost: pictures, and the sound as the data module prepares it."""

    def __init__(self, frames: list[np.ndarray], waveform: np.ndarray) -> None:
        self.pictures = jpeg_frames(frames)
        self.sound = {"flac": encode_flac(waveform, CLIP.sample_rate_hz)}

    def syncnet(self, rng: np.random.Generator) -> int:
        """Make four windows with their mels, as `SyncNetSamples` with as many windows per clip."""
        mel = clip_mel(self.sound, CLIP)
        starts = self._starts(rng, 4)
        default_collate([{"frames": self._window(start), "mel": mel_window(mel, start, CLIP)} for start in starts])
        return len(starts)

    def unet(self, rng: np.random.Generator) -> int:
        """Make a target and a reference window with mel and audio tokens, as `UNetSamples`."""
        mel, (target, reference) = clip_mel(self.sound, CLIP), self._starts(rng, 2)
        tokens = AUDIO_ENCODER.tokens(clip_waveform(self.sound), len(self.pictures), fps=float(CLIP.fps))
        sample = {
            "frames": self._window(target),
            "reference": self._window(reference),
            "mel": mel_window(mel, target, CLIP),
        }
        default_collate([sample | {"audio": tokens[target : target + CLIP.num_frames].clone()}])
        return 1

    def _starts(self, rng: np.random.Generator, count: int) -> list[int]:
        return [int(start) for start in rng.integers(0, len(self.pictures) - CLIP.num_frames - 2, size=count)]

    def _window(self, start: int) -> torch.Tensor:
        coded = self.pictures[start : start + CLIP.num_frames]
        return frames_tensor(
            np.stack([cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) for data in coded])
        )


def memory_growth(shards: Path) -> tuple[float, float]:
    """Return the resident memory in MiB after a tenth and after all of `FLATNESS_SAMPLES` samples in this process."""
    settings: dict[str, Any] = {"num_workers": 0, "seed": 1, "shuffle_buffer": 128, "max_bad_clips": 0, "batch_size": 8}
    data = ClipDataModule(
        shards=str(shards),
        clip=CLIP,
        samples=LatentSamples(clip=CLIP, audio_encoder=AUDIO_ENCODER, windows_per_clip=1, mask="released"),
        **settings,
    )
    batches, seen, early = iter(data.train_dataloader()), 0, 0.0
    while seen < FLATNESS_SAMPLES:
        seen += len(next(batches)["id"])
        if not early and seen >= FLATNESS_SAMPLES // 10:
            early = resident_mib()
    return early, resident_mib()


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = make_shards(folder)
        rng = np.random.default_rng(1)
        unet = UNetSamples(clip=CLIP, audio_encoder=AUDIO_ENCODER, windows_per_clip=1, mask="released")
        several = UNetSamples(clip=CLIP, audio_encoder=AUDIO_ENCODER, windows_per_clip=4, mask="released")
        syncnet = SyncNetSamples(clip=CLIP, windows_per_clip=4, min_gap_frames=8)
        latents = LatentSamples(clip=CLIP, audio_encoder=AUDIO_ENCODER, windows_per_clip=1, mask="released")
        frames, waveform = next(drawn_clips())
        jpeg, mp4 = JpegClip(frames, waveform), encode_clip(frames, fps=CLIP.fps)
        rates = {
            "U-Net, the plain way": rate(lambda: plain_sample(plain, rng, 2)),
            "SyncNet, the plain way": rate(lambda: plain_sample(plain, rng, 1)),
            "U-Net, mp4, 1 window of a clip": samples_per_second(folder / "pixels", unet, 8),
            "U-Net, mp4, 4 windows of a clip": samples_per_second(folder / "pixels", several, 8),
            "U-Net, JPEG": rate(lambda: jpeg.unet(rng)),
            "SyncNet, mp4, 4 windows of a clip": samples_per_second(folder / "pixels", syncnet, 32),
            "SyncNet, JPEG, 4 windows of a clip": rate(lambda: jpeg.syncnet(rng)),
            "U-Net stage 1, latents": samples_per_second(folder / "latents", latents, 8),
        }
        early, late = memory_growth(folder / "latents")
    print("| samples | per CPU second | times the plain way |\n| --- | ---: | ---: |")
    for what, per_second in rates.items():
        network = "SyncNet" if what.startswith("SyncNet") else "U-Net"
        print(f"| {what} | {per_second:.1f} | {per_second / rates[f'{network}, the plain way']:.1f} |")
    print(f"\nJPEG takes {sum(map(len, jpeg.pictures)) / len(mp4):.1f} times the bytes of mp4.")
    print(
        f"Resident memory after {FLATNESS_SAMPLES // 10} samples {early:.0f} MiB, after {FLATNESS_SAMPLES} {late:.0f} MiB."
    )


if __name__ == "__main__":
    main()
