"""Join pieces of a picture, each frame at its own time, with sound."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path

import av
from av.packet import Packet
from av.video.stream import VideoStream

from lipsync_lightning.files import whole_file
from lipsync_lightning.media.mux import container_for, sound_packets, told_of

_CLOCK = Fraction(1, 90000)  # what most frame rates divide


def join(
    path: Path,
    pieces: Sequence[Path],
    times_s: Sequence[Fraction],
    *,
    sound: Path,
    sound_offset_s: Fraction = Fraction(0),
    sound_end_s: Fraction | None = None,
    audio_track: int | str | None = None,
    keep_sound: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the pictures of some pieces, one after the other, and a sound into one file; no picture is encoded again.

    Args:
        path: its ending says how it is stored, as of `mux.video_writer`; so are the last three.
        pieces: files of `video_writer`, alike but for their length, without frames that look ahead (`num_b_frames=0`).
        times_s: when each frame of theirs is shown, and when the last one ends.
        sound_offset_s: when the sound begins; what comes before 0 is left out.
        sound_end_s: when it is cut off; None keeps it whole, however long the picture is.
    Raises: as `video_writer` does.
    """
    with told_of(path), whole_file(path) as part, container_for(path, part, metadata or {}) as container:
        with av.open(str(pieces[0].absolute())) as first:
            picture = container.add_stream_from_template(first.streams.video[0])
        picture.time_base = _CLOCK
        heard = _placed(sound_packets(sound, container, audio_track, keep=keep_sound), sound_offset_s, sound_end_s)
        heard = chain(list(islice(heard, 1)), heard)  # read now, because every stream must be known before all writing
        for packet in _pictures(pieces, times_s, picture):
            shown_s = packet.dts * packet.time_base
            container.mux(packet)
            for sounding in heard:
                container.mux(sounding)
                if sounding.dts * sounding.time_base >= shown_s:
                    break
        for sounding in heard:
            container.mux(sounding)


def _pictures(pieces: Sequence[Path], times_s: Sequence[Fraction], stream: VideoStream) -> Iterator[Packet]:
    """Yield the packets of pieces at these times."""
    first = 0
    for piece in pieces:
        num_frames = 0
        with av.open(str(piece.absolute())) as container:
            for packet in container.demux(container.streams.video[0]):
                if packet.size:
                    place = first + num_frames
                    packet.time_base = _CLOCK
                    packet.pts = packet.dts = round(times_s[place] / _CLOCK)
                    packet.duration = round(times_s[place + 1] / _CLOCK) - packet.pts
                    packet.stream = stream
                    num_frames += 1
                    yield packet
        first += num_frames


def _placed(packets: Iterator[Packet], offset_s: Fraction, end_s: Fraction | None) -> Iterator[Packet]:
    for packet in packets:
        begins_s = packet.pts * packet.time_base + offset_s
        if begins_s + (packet.duration or 0) * packet.time_base <= 0 and offset_s < 0:
            continue
        if end_s is not None and begins_s >= end_s:
            return
        shift = round(offset_s / packet.time_base)
        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
        yield packet
