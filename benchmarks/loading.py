"""`python benchmarks/loading.py`: training windows per second of CPU time, and the cores that feed an H100.

It draws its own clips: 24 people, 10 seconds each, faces of 256 pixels. Latents and audio states are random numbers of
the released networks' shapes, since only their bytes matter here. Whisper runs on the device, not its log-mel. An H100
wants windows as fast as `full_size.py` counts. The plain way opens a video written with FFmpeg's default group of 250
frames, decodes each window from its start, resizes it bicubically, and computes the log-mel of each sample's own sound.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from einops import rearrange
from torch.nn.functional import interpolate

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data.datamodule import ClipDataModule
from lipsync_lightning.data.latent_samples import (
    ENCODED,
    ENCODED_AUDIO_BY,
    LATENTS,
    STATES,
    LatentSamples,
    StoredFaces,
    stored_array,
)
from lipsync_lightning.data.samples import Lips, SyncNetSamples, UNetSamples, WholeFaces
from lipsync_lightning.media.audio import encode_flac
from lipsync_lightning.media.clips import encode_clip
from lipsync_lightning.media.frames import to_float
from lipsync_lightning.media.mel import log_mel
from lipsync_lightning.media.video import to_rgb
from lipsync_lightning.models.audio_encoder import WhisperAudioEncoder
from lipsync_lightning.models.weights_io import fingerprint_with_settings
from lipsync_lightning.shards.format import FinishedClip, write_shard
from lipsync_lightning.synthetic.corpus import ClipPlan, make_clip

CLIP = ClipSpec(num_frames=16, fps=25, resolution=256, sample_rate_hz=16000, mel_hz=80, num_mels=80)
NUM_CLIPS, SECONDS, MEASURED_SECONDS = 24, 10.0, 10.0
WHISPER_TINY = {"n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": 384, "n_audio_head": 6, "n_audio_layer": 4}
AUDIO_ENCODER = WhisperAudioEncoder(**WHISPER_TINY)
STORED = {LATENTS: (1, (2, 2, 4, 32, 32)), STATES: (2, (5, 384))}  # rows a frame, and the shape of one
SYNCNET, STAGE_1, STAGE_1_LATENTS, STAGE_2 = 256 / 0.2, 24 / 0.86, 24 / 0.45, 4 / 0.44  # windows a second of an H100


def make_shards(folder: Path) -> list[tuple[Path, np.ndarray]]:
    """Write a shard of pixels and one of latents, and return the plain videos with their sound."""
    rng, plain, pixels, latents = np.random.default_rng(0), [], [], []
    for person in range(NUM_CLIPS):
        plan = ClipPlan(seed=1, person=person, clip=0, seconds=SECONDS, leak=0.3, fps=CLIP.fps, size=CLIP.resolution)
        drawn = make_clip(plan)
        frames, waveform, key = list(drawn.frames), drawn.utterance.waveform, f"d/{person}/000000-0"
        path = folder / f"{person}.mp4"
        path.write_bytes(encode_clip(frames, fps=CLIP.fps, gop=250))
        plain.append((path, waveform))
        facts: dict[str, Any] = {"num_frames": len(frames)}
        members = {"mp4": encode_clip(frames, fps=CLIP.fps), "flac": encode_flac(waveform, CLIP.sample_rate_hz)}
        pixels.append(FinishedClip(key, len(frames), {**members, "json": json.dumps(facts).encode()}))
        made_by = fingerprint_with_settings(AUDIO_ENCODER)
        facts[ENCODED] = {"made_by": "benchmark", "mask": "released", ENCODED_AUDIO_BY: made_by}
        members = {"flac": members["flac"]}
        for suffix, (rows, shape) in STORED.items():
            members[suffix], facts[ENCODED][suffix] = stored_array(rng.normal(size=(rows * len(frames), *shape)))
        latents.append(FinishedClip(key, len(frames), {**members, "json": json.dumps(facts).encode()}))
    write_shard(folder / "pixels" / "train" / "000000.tar", pixels, clip=CLIP)
    write_shard(folder / "latents" / "train" / "000000.tar", latents, clip=CLIP)
    return plain


def per_second(work: Callable[[], int]) -> float:
    """Return how many samples `work`, which returns how many it made, makes in a second of CPU time, warmed up."""
    work()
    started, done = time.process_time(), 0
    while (seconds := time.process_time() - started) < MEASURED_SECONDS:
        done += work()
    return done / seconds


def loaded(shards: Path, samples: Any, batch_size: int) -> float:
    """Return windows per CPU second of the data module without workers, collation included."""
    settings: dict[str, Any] = {"num_workers": 0, "seed": 1, "shuffle_buffer": 128, "max_bad_clips": 0}
    data = ClipDataModule(shards=str(shards), clip=CLIP, samples=samples, batch_size=batch_size, **settings)
    batches = iter(data.train_dataloader())
    return per_second(lambda: len(next(batches)["id"]))


def plain_sample(path: Path, waveform: np.ndarray, starts: np.ndarray) -> int:
    for start in starts:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            last = (start + CLIP.num_frames - 0.5) / CLIP.fps
            frames = [to_rgb(frame) for frame in container.decode(stream) if (frame.time or 0) < last]
        window = to_float(rearrange(np.stack(frames[start:]), "t h w c -> t c h w").copy())
        interpolate(window, size=(CLIP.resolution, CLIP.resolution), mode="bicubic")
    log_mel(torch.from_numpy(waveform))
    return 1


def main() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    rng, last_start = np.random.default_rng(1), int(SECONDS * CLIP.fps) - CLIP.num_frames - 2
    unet: dict[str, Any] = {"clip": CLIP, "audio_encoder": AUDIO_ENCODER, "mask": "released"}
    with tempfile.TemporaryDirectory() as name:
        pixels, latents = Path(name, "pixels"), Path(name, "latents")
        videos = make_shards(Path(name))

        def plain(num_windows: int) -> float:
            return per_second(
                lambda: plain_sample(*videos[rng.integers(NUM_CLIPS)], rng.integers(last_start, size=num_windows))
            )

        def syncnet(shards: Path, sees: Any, windows_per_clip: int = 4) -> float:
            settings = {"clip": CLIP, "windows_per_clip": windows_per_clip, "min_gap_frames": 8}
            return loaded(shards, SyncNetSamples(**settings, sees=sees), 32)

        plain_unet, plain_syncnet = plain(2), plain(1)
        one, four = (UNetSamples(windows_per_clip=number, **unet) for number in (1, 4))
        stored = LatentSamples(windows_per_clip=1, **unet)
        rows = [
            ("SyncNet, the plain way", plain_syncnet, plain_syncnet, SYNCNET),
            ("SyncNet, whole faces", syncnet(pixels, WholeFaces()), plain_syncnet, SYNCNET),
            ("SyncNet, lips", syncnet(pixels, Lips()), plain_syncnet, SYNCNET),
            ("SyncNet, lips, 8 windows of a clip", syncnet(pixels, Lips(), 8), plain_syncnet, SYNCNET),
            ("SyncNet, lips, 16 windows of a clip", syncnet(pixels, Lips(), 16), plain_syncnet, SYNCNET),
            ("SyncNet, stored latents", syncnet(latents, StoredFaces()), plain_syncnet, SYNCNET),
            ("stage 1, the plain way, without Whisper", plain_unet, plain_unet, STAGE_1),
            ("stage 1", loaded(pixels, one, 8), plain_unet, STAGE_1),
            ("stage 1, 4 windows of a clip", loaded(pixels, four, 8), plain_unet, STAGE_1),
            ("stage 1, stored latents", loaded(latents, stored, 8), plain_unet, STAGE_1_LATENTS),
            ("stage 2", loaded(pixels, one, 4), plain_unet, STAGE_2),
        ]
    print("| windows of | per CPU second | times the plain way | wanted per second | cores |\n| --- |" + " ---: |" * 4)
    for what, rate, plain_rate, wanted in rows:
        print(f"| {what} | {rate:.1f} | {rate / plain_rate:.1f} | {wanted:.1f} | {wanted / rate:.2f} |")


if __name__ == "__main__":
    main()
