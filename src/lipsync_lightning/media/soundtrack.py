"""A sound on its way into a video file: copied, or encoded so that players take it."""

from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO
from itertools import islice
from pathlib import Path

import av
from av.audio.frame import AudioFrame
from av.container import OutputContainer
from av.error import FFmpegError
from av.packet import Packet

from lipsync_lightning.media.audio import MOST_CHANNELS, SteadyClock, samples_in_place, sound_stream, zero_time
from lipsync_lightning.media.video import open_media, require_whole

_PLAYABLE = {"aac", "mp3"}  # in every player of such files
_KEPT = {*_PLAYABLE, "alac", "flac", "ac3", "eac3", "opus"}  # in those that play what is kept
_FIT_16_BIT = {"u8", "u8p", "s16", "s16p"}


def sound_packets(
    path: Path | str, output: OutputContainer, audio_track: int | str | None = None, *, keep: bool
) -> Iterator[Packet]:
    """Yield the packets of a new stream of `output`: one whole sound track of a file, beginning as `read_audio` has it.

    AAC and MP3 are copied packet by packet; any other sound becomes AAC, mono, stereo or 5.1, which all players take.

    Args:
        audio_track: as of `read_audio`.
        keep: copy any sound that the file takes, and store other samples without a loss, as FLAC, or as ALAC in .mov
            (of 32-bit and float ones the upper 24 bits; more than 8 channels are mixed).
    """
    if _is_taken(path, output.format.name, audio_track, _KEPT if keep else _PLAYABLE):
        return _copied_packets(path, output, audio_track)
    return _encoded_packets(path, output, audio_track, keep=keep)


def _is_taken(path: Path | str, kind: str, audio_track: int | str | None, codecs: set[str]) -> bool:
    """Return whether a sound is of these codecs and can be copied to such a file, by trying."""
    with open_media(path) as source:
        stream = sound_stream(source, path, audio_track)
        if stream.codec_context.codec.canonical_name not in codecs:
            return False
        try:
            with av.open(BytesIO(), "w", format=kind) as trial:
                written = trial.add_stream_from_template(stream)
                for packet in islice((each for each in source.demux(stream) if each.size), 1):
                    packet.stream = written
                    trial.mux(packet)
        except FFmpegError:
            return False
    return True


def _copied_packets(path: Path | str, output: OutputContainer, audio_track: int | str | None) -> Iterator[Packet]:
    zero_s, last = zero_time(path, audio_track), None
    with open_media(path) as source:
        require_whole(source, path)
        stream = sound_stream(source, path, audio_track)
        written, clock = output.add_stream_from_template(stream), SteadyClock(source)
        for packet in source.demux(stream):
            if packet.size:
                begin_s = clock(packet, (packet.duration or 0) * packet.time_base) - zero_s
                place = round(begin_s / packet.time_base)
                packet.pts = packet.dts = last = place if last is None else max(place, last + 1)
                packet.stream = written
                yield packet


def _encoded_packets(
    path: Path | str, output: OutputContainer, audio_track: int | str | None, *, keep: bool
) -> Iterator[Packet]:
    with open_media(path) as source:
        context = sound_stream(source, path, audio_track).codec_context
        rate, layout, num_channels = context.sample_rate, context.layout.name, context.layout.nb_channels
        fits_16_bit = context.format.name in _FIT_16_BIT
    if keep:
        codec, format = "alac" if output.format.name == "mov" else "flac", "s16" if fits_16_bit else "s32"
        layout = f"{num_channels}c" if layout.endswith("channels") else layout  # the usual one of so many
        layout = layout if num_channels <= MOST_CHANNELS else "stereo"
    else:
        codec, format, layout = "aac", "flt", {1: "mono", 6: "5.1"}.get(num_channels, "stereo")
        rate = rate if rate in (av.Codec("aac", "w").audio_rates or ()) else 48000
    written = output.add_stream(codec, rate=rate, layout=layout)
    if not keep:
        written.bit_rate = 128_000 * max(2, written.codec_context.channels)
    written.codec_context.format = format if codec == "flac" else f"{format}p"
    written.codec_context.time_base = Fraction(1, rate)
    next_sample = 0
    for samples in samples_in_place(path, rate, format=format, layout=layout, audio_track=audio_track):
        if samples.size:
            frame = AudioFrame.from_ndarray(samples.reshape(1, -1), format=format, layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, next_sample, Fraction(1, rate)
            next_sample += frame.samples
            yield from written.encode(frame)
    yield from written.encode(None)
