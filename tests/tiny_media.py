"""Videos whose frames tell their number by their brightness, and whose face is where a json beside them says."""

import json
import struct
import wave
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from lipsync_lightning.media.audio import encode_flac
from lipsync_lightning.media.mux import video_writer

RATE_HZ = 16000
FPS = 25
SIDE = 64


def level(frame: int) -> int:
    """The brightness of a frame: successive frames differ by 3 levels."""
    return 20 + 3 * (frame % 70)


def numbered_frames(num_frames: int, side: int = SIDE) -> np.ndarray:
    return np.stack([np.full((side, side, 3), level(index), np.uint8) for index in range(num_frames)])


def number_of(face: np.ndarray) -> int:
    """Which frame of `numbered_frames` a decoded (H, W, 3) picture is."""
    return round((float(np.median(face)) - 20) / 3)


def sound_of(num_frames: float, loud: range = range(0)) -> np.ndarray:
    """Silence as long as `num_frames` frames, with a 1 kHz tone while the frames of `loud` are shown."""
    time_s = np.arange(round(num_frames * RATE_HZ / FPS)) / RATE_HZ
    shown = (time_s * FPS).astype(int)
    heard = np.isin(shown, np.array(loud, dtype=int))
    return (0.5 * heard * np.sin(2000 * np.pi * time_s)).astype(np.float32)


# Brows and nose where a face of 32 pixels is cut out upright, unscaled and wholly inside the frame.
POINTS = np.array([[5.95, 7.0], [20.3, 7.0], [13.125, 14.0]]) + 14


def write_video(
    path: Path,
    num_frames: int,
    sound: np.ndarray | None,
    *,
    without_face: range = range(0),
    frames: Iterable[np.ndarray] | None = None,
    fps: float = FPS,
) -> Path:
    """Write a video and the json of its points, and return the video's path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flac = path.with_name(".sound.flac")
    if sound is not None:
        flac.write_bytes(encode_flac(sound, RATE_HZ))
    heard = flac if sound is not None else None
    with video_writer(path, width=SIDE, height=SIDE, fps=fps, sound=heard, keep_sound=True) as write:
        for frame in numbered_frames(num_frames) if frames is None else frames:
            write(frame)
    flac.unlink(missing_ok=True)
    points = [None if index in without_face else POINTS.tolist() for index in range(num_frames)]
    path.with_suffix(".json").write_text(json.dumps({"points": points}))
    return path


def write_timed(
    path: Path,
    times_ms: Sequence[int],
    pictures: np.ndarray,
    *,
    rotation: int | None = None,
    hflip: bool = False,
    **options: str,
) -> Path:
    """Write pictures at these times, to be shown turned and mirrored; `options` are for x264."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10", **options})
        stream.codec_context.height, stream.codec_context.width = pictures.shape[1:3]
        stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation, hflip=hflip)
        for picture, time_ms in zip(pictures, times_ms, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_wav(path: Path, levels: np.ndarray, sample_rate_hz: int) -> Path:
    """Write 16-bit levels (N, channels)."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(levels.shape[1])
        file.setsampwidth(2)
        file.setframerate(sample_rate_hz)
        file.writeframes(levels.astype("<i2").tobytes())
    return path


def write_float_wav(path: Path, samples: np.ndarray) -> Path:
    """Write (N,) float32 samples at 16 kHz, whatever they are."""
    data = samples.astype("<f4").tobytes()
    kind = struct.pack("<HHIIHH", 3, 1, RATE_HZ, 4 * RATE_HZ, 4, 32)
    content = b"WAVEfmt " + struct.pack("<I", len(kind)) + kind + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(content)) + content)
    return path


def write_tracks(path: Path, tracks: Sequence[tuple[str, float, bool]]) -> Path:
    """Write a second of constant sound for each (language, level, whether it is the default)."""
    with av.open(str(path), "w") as container:
        streams: list[Any] = [container.add_stream("pcm_s16le", rate=RATE_HZ, layout="mono") for _ in tracks]
        for stream, (language, _, is_default) in zip(streams, tracks, strict=True):
            stream.metadata["language"] = language
            stream.disposition = Disposition.default if is_default else Disposition(0)
        for stream, (_, level, _) in zip(streams, tracks, strict=True):
            levels = np.full((1, RATE_HZ), round(32767 * level), np.int16)
            frame = av.AudioFrame.from_ndarray(levels, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, 0, Fraction(1, RATE_HZ)
            container.mux(stream.encode(frame))
    return path


def write_compressed(
    path: Path, codec: str, levels: np.ndarray, *, sound_at_s: float = 0, video_at_s: float | None = None
) -> Path:
    """Write 48 kHz stereo sound, (N, 2) 16-bit levels, and, if `video_at_s` is given, 25 black frames."""
    with av.open(str(path), "w") as container:
        sound: Any = container.add_stream(codec, rate=48000)
        sound.codec_context.layout, sound.codec_context.time_base = "stereo", Fraction(1, 48000)
        if video_at_s is not None:
            stream = container.add_stream("libx264", rate=25)
            stream.codec_context.width = stream.codec_context.height = 32
            for number in range(25):
                image = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
                image.pts, image.time_base = round(video_at_s * 25) + number, Fraction(1, 25)
                container.mux(stream.encode(image))
            container.mux(stream.encode(None))
        frame = av.AudioFrame.from_ndarray(levels.reshape(1, -1), format="s16", layout="stereo")
        frame.sample_rate = 48000
        size = sound.codec_context.frame_size or 1024
        resampler = av.AudioResampler(format=sound.codec_context.format, layout="stereo", rate=48000, frame_size=size)
        next_sample = round(sound_at_s * 48000)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            part.pts, part.time_base = next_sample, Fraction(1, 48000)
            next_sample += part.samples
            container.mux(sound.encode(part))
        container.mux(sound.encode(None))
    return path
