"""Write picture and sound into one mp4 in one pass, the sound untouched."""

from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet

from lipsync_lightning.media.audio import frame_time_s, sound_stream, zero_time
from lipsync_lightning.media.video import VideoWriter, open_media, require_whole

# What mp4 takes as it is and common players play; any other sound is decoded and kept as FLAC, which loses nothing.
_COPIED_CODECS = frozenset({"aac", "mp3", "alac", "flac", "ac3", "eac3", "opus"})

_FIT_16_BIT = frozenset({"u8", "u8p", "s16", "s16p"})


class MuxedVideoWriter:
    """Write RGB frames and the first sound stream of `sound` to an mp4 that appears under its name only when complete.

    Compressed sound is copied packet by packet; uncompressed sound becomes FLAC with the same samples (32-bit and float: the upper 24
    bits), rate and channels. All of it is kept, however long the picture is. It starts as `read_audio` has it: the first frame written
    is shown when the first frame of `sound` would be, or when the sound begins if `sound` has no picture. `sound=None` writes none.

    Raises on entry: MissingAudio, if `sound` has none; BadMedia, if `sound` cannot be read, as does any later step if it breaks off.
    """

    def __init__(
        self, path: Path | str, *, width: int, height: int, fps: float, sound: Path | str | None, crf: int = 18
    ):
        self._video = VideoWriter(path, width=width, height=height, fps=fps, crf=crf)
        self._sound_path = sound

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.enter_context(self._video)
            self._packets = (
                iter(()) if self._sound_path is None else _sound_packets(self._sound_path, self._video.container)
            )
            # The first packet is read now, because every stream must be known before anything is written.
            self._packets = chain(list(islice(self._packets, 1)), self._packets)
            undo.push(self._write_remaining_sound)
            self._closing = undo.pop_all()
        return self

    def write(self, frame: np.ndarray) -> None:
        """Append one frame, (height, width, 3) uint8 RGB, and the sound up to its end.

        Raises: ValueError, if it has another shape or type; BadMedia, if the sound breaks off here.
        """
        self._video.write(frame)
        for packet in self._packets:
            self._video.container.mux(packet)
            if packet.dts is not None and packet.dts * packet.time_base >= self._video.seconds_written:
                break

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.__exit__(kind, error, trace)

    def _write_remaining_sound(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._video.num_written:
            for packet in self._packets:
                self._video.container.mux(packet)


def _sound_packets(path: Path | str, output: OutputContainer) -> Iterator[Packet]:
    zero_s = zero_time(path)
    with open_media(path) as source:
        require_whole(source, path)
        stream = sound_stream(source, path)
        copied = stream.codec_context.codec.canonical_name in _COPIED_CODECS
        yield from (_copied_packets if copied else _flac_packets)(source, stream, output, zero_s)


def _copied_packets(
    source: InputContainer, stream: AudioStream, output: OutputContainer, zero_s: Fraction
) -> Iterator[Packet]:
    written = output.add_stream_from_template(stream)
    for packet in source.demux(stream):
        if packet.size == 0:
            continue
        shift = round(zero_s / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts - shift
        packet.dts = None if packet.dts is None else packet.dts - shift
        packet.stream = written
        yield packet


def _flac_packets(
    source: InputContainer, stream: AudioStream, output: OutputContainer, zero_s: Fraction
) -> Iterator[Packet]:
    context = stream.codec_context
    written = output.add_stream("flac", rate=context.sample_rate)
    written.codec_context.layout = context.layout
    written.codec_context.format = "s16" if context.format.name in _FIT_16_BIT else "s32"
    written.codec_context.time_base = Fraction(1, context.sample_rate)
    for frame in _integer_frames(source, stream, written, zero_s):
        yield from written.encode(frame)
    yield from written.encode(None)


def _integer_frames(
    source: InputContainer, stream: AudioStream, written: AudioStream, zero_s: Fraction
) -> Iterator[AudioFrame]:
    """Yield the sound as the integers that FLAC takes, timed in samples since `zero_s`."""
    rate = stream.codec_context.sample_rate
    converter = AudioResampler(format=written.codec_context.format, layout=written.codec_context.layout, rate=rate)
    next_sample: int | None = None
    for frame in chain(source.decode(stream), [None]):
        if frame is not None and next_sample is None:
            next_sample = round((frame_time_s(frame, zero_s) - zero_s) * rate)
        for converted in converter.resample(frame):
            if converted is not None and next_sample is not None:
                converted.pts, converted.time_base = next_sample, Fraction(1, rate)
                next_sample += converted.samples
                yield converted
