"""Read sound as one mono waveform that begins when the video's first frame is shown, and keep it as FLAC."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.frame import Frame

from lipsync_lightning.errors import BadMedia, ClipTooShort, MissingAudio
from lipsync_lightning.media.video import open_media, require_whole, video_stream

# A recorder that drops sound leaves a hole in the times; smaller steps are rounding of a coarse clock.
_HOLE_S = Fraction(1, 20)

_FULL_SCALE_16_BIT = 32768


def read_audio(path: Path | str, sample_rate_hz: int = 16000) -> np.ndarray:
    """Return the first sound stream as (N,) float32 mono in [-1, 1], starting with the first video frame.

    Sound that starts late is padded with silence, sound from before the picture is cut off, holes become silence.
    Without a picture the first sample is the first one heard. Stereo is averaged; more channels are mixed to stereo by
    FFmpeg before.
    Raises: MissingAudio, if the file has no sound; BadMedia, if it is missing, empty, truncated or not media.
    """
    zero_s = zero_time(path)
    with open_media(path) as container:
        require_whole(container, path)
        runs = list(_runs(container, sound_stream(container, path), sample_rate_hz))
    if not runs:
        raise MissingAudio(f"{path}: the sound stream holds no sound; give a file in which someone is heard")
    places = [(round((start_s - zero_s) * sample_rate_hz), run) for start_s, run in runs]
    waveform = np.zeros(max(0, *(place + len(run) for place, run in places)), np.float32)
    for place, run in places:
        audible = run[max(0, -place) :]
        waveform[max(0, place) : max(0, place) + len(audible)] = audible
    return np.clip(waveform, -1, 1, out=waveform)


def zero_time(path: Path | str) -> Fraction:
    """Return the file's own time, in seconds, of its first video frame, or of its first sound if it has no picture.

    Raises: BadMedia, if the file cannot be read or its first frame does not decode.
    """
    with open_media(path) as container:
        stream = video_stream(container) or sound_stream(container, path)
        first = next(container.decode(stream), None)
        if not isinstance(first, Frame):
            raise BadMedia(f"{path}: its {stream.type} stream holds nothing; copy or convert the file again")
        return frame_time_s(first, Fraction(0))


def frame_time_s(frame: Frame, otherwise: Fraction) -> Fraction:
    """Return when a frame is shown or heard, in seconds of its file's own time; `otherwise` if it does not say."""
    return otherwise if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base


def sound_stream(container: InputContainer, path: Path | str) -> AudioStream:
    """Return a file's first sound stream. Raises: MissingAudio, if there is none."""
    if not container.streams.audio:
        raise MissingAudio(f"{path}: no sound in it; give a file with a sound stream")
    return container.streams.audio[0]


def encode_flac(waveform: np.ndarray, sample_rate_hz: int) -> bytes:
    """Return a mono 16-bit FLAC file of a (N,) waveform in [-1, 1]; what lies outside is clipped.

    Raises: ClipTooShort, if there is no sample.
    """
    if waveform.size == 0:
        raise ClipTooShort("sound of at least one sample is needed, got none; check what it was cut from")
    levels = np.round(waveform * np.float32(_FULL_SCALE_16_BIT)).clip(-_FULL_SCALE_16_BIT, _FULL_SCALE_16_BIT - 1)
    frame = AudioFrame.from_ndarray(levels.astype(np.int16)[None], format="s16", layout="mono")
    frame.sample_rate = sample_rate_hz
    data = BytesIO()
    with av.open(data, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=sample_rate_hz)
        stream.codec_context.layout = "mono"
        stream.codec_context.format = "s16"
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return data.getvalue()


def decode_flac(data: bytes) -> np.ndarray:
    """Return the (N,) float32 waveform in [-1, 1] of an `encode_flac` file, exact to its 16 bits.

    Raises: BadMedia, if it is none.
    """
    try:
        with av.open(BytesIO(data), "r", format="flac") as container:
            stream = container.streams.audio[0]
            if stream.channels != 1 or stream.format.name not in ("s16", "s16p"):
                raise BadMedia("a sound is not mono 16-bit FLAC; write its shard again")
            # Not by `to_ndarray`, which takes as long as decoding.
            decoded: Any = container.decode(stream)
            frames = [np.frombuffer(frame.planes[0], np.int16, frame.samples) for frame in decoded]
    except FFmpegError as error:
        raise BadMedia(f"a sound is no whole FLAC file ({error.strerror}); write its shard again") from error
    if not frames:
        raise BadMedia("a sound is empty; write its shard again")
    return np.concatenate(frames).astype(np.float32) / _FULL_SCALE_16_BIT


def _runs(container: InputContainer, stream: AudioStream, sample_rate_hz: int) -> Iterator[tuple[Fraction, np.ndarray]]:
    """Yield (start in seconds of the file's own time, mono waveform) for each stretch without a hole or new format."""
    start_s = end_s = Fraction(0)
    kind: tuple[str, str, int] | None = None
    resampler: AudioResampler | None = None
    pieces: list[np.ndarray] = []
    for frame in container.decode(stream):
        time_s = frame_time_s(frame, end_s)
        its_kind = frame.format.name, frame.layout.name, frame.sample_rate
        if resampler is None or kind != its_kind or abs(time_s - end_s) > _HOLE_S:
            if resampler is not None:
                yield start_s, np.concatenate(pieces + _mono(resampler.resample(None)))
            layout = frame.layout.name if frame.layout.nb_channels <= 2 else "stereo"
            resampler = AudioResampler(format="fltp", layout=layout, rate=sample_rate_hz)
            kind, pieces, start_s, end_s = its_kind, [], time_s, time_s
        frame.pts = None
        pieces += _mono(resampler.resample(frame))
        end_s += Fraction(frame.samples, frame.sample_rate)
    if resampler is not None:
        yield start_s, np.concatenate(pieces + _mono(resampler.resample(None)))


def _mono(frames: Sequence[AudioFrame | None]) -> list[np.ndarray]:
    """Average the channels here: FFmpeg's own float stereo to mono adds 3 dB, a factor of 1.414."""
    return [frame.to_ndarray().mean(axis=0, dtype=np.float32) for frame in frames if frame is not None]
