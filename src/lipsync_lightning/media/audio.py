"""Read sound as one mono waveform that begins when the video's first frame is shown, and keep it as FLAC."""

import warnings
from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.format import Flags
from av.frame import Frame
from av.packet import Packet
from av.stream import Disposition

from lipsync_lightning.errors import BadConfig, BadMedia, ClipTooShort, MissingAudio
from lipsync_lightning.media.resampling import LEAP_S, LONGEST_PAUSE_S
from lipsync_lightning.media.video import open_media, require_whole, video_stream

# A recorder that drops sound leaves a hole in the times; smaller steps are rounding of a coarse clock.
_HOLE_S = Fraction(1, 20)

MOST_CHANNELS = 8  # of which FFmpeg's mixing and lossless codecs know what they are
_LOUDEST = 1e6  # of float samples; a full scale is 1

_FULL_SCALE_16_BIT = 32768


def read_audio(path: Path | str, sample_rate_hz: int = 16000, audio_track: int | str | None = None) -> np.ndarray:
    """Return one sound track as (N,) float32 mono in [-1, 1], starting with the first video frame.

    Sound that starts late is padded with silence, sound from before the picture is cut off, holes and samples that are
    no numbers become silence. Without a picture the first sample is the first one heard. Stereo is averaged; more
    channels are mixed to stereo by FFmpeg before.

    Args: audio_track: its number, from 0, or its language, such as "eng"; None for the one that the file calls default,
        else the first.
    Raises: MissingAudio, if the file has no sound; BadMedia, if it is missing, empty, truncated or not media;
        BadConfig, if there is no such track.
    """
    # Averaged here: FFmpeg's own float stereo to mono adds 3 dB, a factor of 1.414.
    heard = [samples.mean(axis=1) for samples in samples_in_place(path, sample_rate_hz, audio_track=audio_track)]
    waveform = np.concatenate(heard)
    return np.clip(waveform, -1, 1, out=waveform)


def zero_time(path: Path | str, audio_track: int | str | None = None) -> Fraction:
    """Return the file's own time, in seconds, of its first video frame, or of its first sound if it has no picture.

    Raises: BadMedia, if the file cannot be read or its first frame does not decode.
    """
    with open_media(path) as container:
        stream = video_stream(container) or sound_stream(container, path, audio_track)
        first = next(container.decode(stream), None)
        if not isinstance(first, Frame):
            raise BadMedia(f"{path}: its {stream.type} stream holds nothing; copy or convert the file again")
        return frame_time_s(first, Fraction(0))


def frame_time_s(frame: Frame | Packet, otherwise: Fraction) -> Fraction:
    """Return when a frame is shown or heard, in seconds of its file's own time; `otherwise` if it does not say."""
    return otherwise if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base


def sound_stream(container: InputContainer, path: Path | str, audio_track: int | str | None = None) -> AudioStream:
    """Return a file's sound track, chosen as `read_audio` says. Raises: MissingAudio, BadConfig, as it says."""
    tracks = container.streams.audio
    if not tracks:
        raise MissingAudio(f"{path}: no sound in it; give a file with a sound stream")
    if audio_track is None:
        return next((track for track in tracks if track.disposition & Disposition.default), tracks[0])
    by_language = {track.language: track for track in reversed(tracks)}
    by_name = by_language | {str(number): track for number, track in enumerate(tracks)}
    if str(audio_track) not in by_name:
        there = ", ".join(f"{number} ({track.language or 'no language'})" for number, track in enumerate(tracks))
        raise BadConfig(f"{path} has no sound track audio_track={audio_track}; there are {there}: give one of these")
    return by_name[str(audio_track)]


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


class SteadyClock:
    """Times of a file, going on where they ended wherever its clock steps back or leaps."""

    def __init__(self, container: InputContainer) -> None:
        self._leap_s = LEAP_S if container.format.flags & Flags.ts_discont.value else LONGEST_PAUSE_S
        self._shift_s = Fraction(0)
        self._end_s: Fraction | None = None

    def __call__(self, frame: Frame | Packet, duration_s: Fraction) -> Fraction:
        """Return when a frame or a packet that lasts so long begins, the one after the last that was asked for."""
        expected_s = self._end_s or Fraction(0)
        begin_s = frame_time_s(frame, expected_s - self._shift_s) + self._shift_s
        if self._end_s is not None and not -_HOLE_S <= begin_s - expected_s <= self._leap_s:
            self._shift_s += expected_s - begin_s
            begin_s = expected_s
        self._end_s = begin_s + duration_s
        return begin_s


def samples_in_place(
    path: Path | str,
    sample_rate_hz: int,
    *,
    format: str = "flt",
    layout: str | None = None,
    audio_track: int | str | None = None,
) -> Iterator[np.ndarray]:
    """Yield (n, channels) samples without a gap from the first video frame on, as `read_audio` says.

    Args: format: of FFmpeg, not planar. layout: of channels; None for mono where it is so, else stereo.
    Raises: as `read_audio` does.
    """
    zero_s, next_sample = zero_time(path, audio_track), 0
    with open_media(path) as container:
        require_whole(container, path)
        stretches = _stretches(container, sound_stream(container, path, audio_track), path)
        for (start_s, num_channels, *_), frames in groupby(stretches, key=lambda each: each[0]):
            place = round((start_s - zero_s) * sample_rate_hz)
            channels = layout or ("mono" if num_channels == 1 else "stereo")
            resampler = AudioResampler(format=format, layout=channels, rate=sample_rate_hz)
            for frame in chain((frame for _, frame in frames), [None]):
                for made in filter(None, resampler.resample(frame)):
                    samples = _samples(made)
                    for first in range(next_sample, place, sample_rate_hz):  # a hole, a second at a time
                        yield np.zeros((min(sample_rate_hz, place - first), samples.shape[1]), samples.dtype)
                    yield samples[max(0, next_sample - place) :]
                    place += made.samples
                    next_sample = max(next_sample, place)
    if next_sample == 0:
        raise MissingAudio(f"{path}: the sound stream holds no sound; give a file in which someone is heard")


def _stretches(
    container: InputContainer, stream: AudioStream, path: Path | str
) -> Iterator[tuple[tuple[Fraction, int, str, str, int], AudioFrame]]:
    """Yield frames, each with what is one and the same for a stretch without a hole or new format: its start first."""
    clock, start_s, end_s, kind = SteadyClock(container), Fraction(0), Fraction(0), None
    for frame in container.decode(stream):
        duration_s = Fraction(frame.samples, frame.sample_rate)
        time_s = clock(frame, duration_s)
        its_kind = frame.layout.nb_channels, frame.format.name, frame.layout.name, frame.sample_rate
        if kind != its_kind or abs(time_s - end_s) > _HOLE_S:
            kind, start_s, end_s = its_kind, time_s, time_s
        end_s += duration_s
        heard = _audible(frame, path)
        heard.pts = None
        yield (start_s, *its_kind), heard


def _audible(frame: AudioFrame, path: Path | str) -> AudioFrame:
    """Return the frame with silence for samples that are no numbers, and with more than 8 channels as their mean."""
    is_float, num_channels = frame.format.name.startswith(("flt", "dbl")), frame.layout.nb_channels
    of_planes = frame.format.is_planar and num_channels == MOST_CHANNELS  # of which PyAV makes no frame
    if of_planes or not (is_float or num_channels > MOST_CHANNELS):
        return frame
    samples, layout = _samples(frame), frame.layout.name
    broken = ~(np.abs(samples) < _LOUDEST) if is_float else np.zeros(1, bool)
    if broken.any():
        warnings.warn(f"{path}: some of its samples are no finite numbers; they are made silent", stacklevel=2)
        samples = np.where(broken, 0, samples)
    if num_channels > MOST_CHANNELS:  # FFmpeg knows no way to mix them
        mean = samples.mean(axis=1, keepdims=True).astype(samples.dtype)
        samples, layout = np.repeat(mean, 2, axis=1), "stereo"
    elif not broken.any():
        return frame
    array = np.ascontiguousarray(samples.T) if frame.format.is_planar else samples.reshape(1, -1)
    clean = AudioFrame.from_ndarray(array, format=frame.format.name, layout=layout)
    clean.sample_rate = frame.sample_rate
    return clean


def _samples(frame: AudioFrame) -> np.ndarray:
    """Return (n, channels) samples; not by `to_ndarray`, which reads planes that are not there if there are 8."""
    kind = "f" if frame.format.name.startswith(("flt", "dbl")) else "u" if frame.format.bytes == 1 else "i"
    dtype, num_channels = np.dtype(f"{kind}{frame.format.bytes}"), frame.layout.nb_channels
    planes: Any = frame.planes
    if frame.format.is_planar:
        return np.stack([np.frombuffer(plane, dtype, frame.samples) for plane in planes[:num_channels]], axis=1)
    return np.frombuffer(planes[0], dtype, frame.samples * num_channels).reshape(-1, num_channels)
