"""Write pictures and sound into one file that all players play."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain, islice
from math import inf
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from lipsync_lightning.errors import BadConfig, BadMedia
from lipsync_lightning.files import whole_file
from lipsync_lightning.media.h264 import add_h264, require_known, require_shape, to_yuv
from lipsync_lightning.media.resampling import exact
from lipsync_lightning.media.soundtrack import sound_packets

_CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}  # by the ending of a file's name

_CLOCK = Fraction(1, 90000)  # what most frame rates divide


@contextmanager
def video_writer(
    path: Path | str,
    *,
    width: int,
    height: int,
    fps: float,
    sound: Path | str | None = None,
    keep_sound: bool = False,
    pixel_aspect: Fraction = Fraction(1),
    crf: int = 18,
    preset: str = "veryfast",
    num_b_frames: int = 3,
    num_threads: int = 0,
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that appends one frame, (height, width, 3) uint8 RGB, as H.264.

    The name's ending says how it is stored: .mp4, .m4v, .mov or .mkv. The file appears when the block ends; after an
    exception, any former file is as it was. An odd width or height is made even by its last column or row once more,
    since players take only 4:2:0. The sound is kept whole, as `soundtrack.sound_packets` says.

    Args:
        pixel_aspect: width of a pixel by its height.
        crf, preset, num_b_frames: of x264.
        num_threads: of the encoder, whose pictures differ by it; 0 for one a core.
    Raises: MissingAudio, if `sound` has none; BadMedia, if it cannot be read, if no frame was written, or if what was
        written fits no such file; ValueError, if a frame has another shape or type; BadConfig, for another ending, or a
        `crf` or `preset` that x264 does not know.
    """
    path, rate, num_written = Path(path), exact(fps), 0
    require_known(crf, preset)
    with _told_of(path), whole_file(path) as part, _container_for(path, part, {}) as container:
        size = {"width": width + width % 2, "height": height + height % 2}
        stream = add_h264(container, **size, fps=rate, options={"crf": str(crf), "preset": preset})
        context = stream.codec_context
        context.sample_aspect_ratio, context.thread_count, context.max_b_frames = (
            pixel_aspect,
            num_threads,
            num_b_frames,
        )
        heard = iter(()) if sound is None else sound_packets(sound, container, keep=keep_sound)
        heard = chain(list(islice(heard, 1)), heard)  # read now, because every stream must be known before all writing

        def write(frame: np.ndarray) -> None:
            nonlocal num_written
            require_shape(frame, (height, width, 3), num_written)
            even = cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
            container.mux(stream.encode(to_yuv(even, stream, num_written)))
            num_written += 1
            _mux_until(container, heard, num_written / rate)

        yield write
        if num_written == 0:
            raise BadMedia(f"{path}: not written, no frame came; check what the frames were made from")
        _mux_until(container, heard, inf)
        container.mux(stream.encode(None))


def _mux_until(container: OutputContainer, packets: Iterator[Packet], time_s: Fraction | float) -> None:
    """Write packets until one begins at a time, or later."""
    for packet in packets:
        container.mux(packet)
        if packet.dts is not None and packet.dts * packet.time_base >= time_s:
            break


def container_kind(path: Path) -> str:
    """Return FFmpeg's name of the kind of file that a name's ending says. Raises: BadConfig, if it says none."""
    kind = "mp4" if path.exists() and path.samefile(os.devnull) else _CONTAINERS.get(path.suffix.lower())
    if kind is None:
        raise BadConfig(f"{path}: videos are written as {', '.join(_CONTAINERS)}; give a name that ends so")
    return kind


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """FFmpeg's own refusals to write become a sentence; those of the disk have one."""
    try:
        yield
    except FFmpegError as error:
        if isinstance(error, OSError):
            raise
        told = f"{path}: such a sound or picture cannot be written there ({error.strerror})"
        raise BadMedia(f"{told}; give a wav as the sound, or a name that ends in .mkv") from error


def _container_for(path: Path, part: Path, metadata: Mapping[str, str]) -> OutputContainer:
    """Return an empty file `part`, of the kind that the name `path` says."""
    kind = container_kind(path)
    flags = "+faststart"
    if any("." in name for name in metadata):  # com.apple.quicktime.…, as telephones write them
        flags += "+use_metadata_tags"
    options = {} if kind == "matroska" else {"movflags": flags}
    container = av.open(str(part.absolute()), "w", format=kind, container_options=options)
    container.metadata.update(metadata)
    return container


def join(
    path: Path,
    pieces: Sequence[Path],
    times_s: Sequence[Fraction],
    *,
    sound: Path | None = None,
    sound_offset_s: Fraction = Fraction(0),
    sound_end_s: Fraction | None = None,
    audio_track: int | str | None = None,
    keep_sound: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the pictures of some pieces, one after the other, and a sound into one file; no picture is encoded again.

    Args:
        path: its ending says how it is stored, as of `video_writer`.
        pieces: files of `video_writer`, alike but for their length, without frames that look ahead (`num_b_frames=0`).
        times_s: when each frame of theirs is shown, and when the last one ends.
        sound_offset_s: when the sound begins; what comes before 0 is left out.
        sound_end_s: when it is cut off; None keeps it whole, however long the picture is.
        audio_track, keep_sound: see `soundtrack.sound_packets`.
        metadata: such as title, comment, creation_time or timecode; mp4 and mov leave out names that they do not know.
    Raises: as `video_writer` does.
    """
    with _told_of(path), whole_file(path) as part, _container_for(path, part, metadata or {}) as container:
        with av.open(str(pieces[0].absolute())) as first:
            picture = container.add_stream_from_template(first.streams.video[0])
        picture.time_base = _CLOCK
        packets = iter(()) if sound is None else sound_packets(sound, container, audio_track, keep=keep_sound)
        heard = _placed(packets, sound_offset_s, sound_end_s)
        heard = chain(list(islice(heard, 1)), heard)  # read now, because every stream must be known before all writing
        for packet in _pictures(pieces, times_s, picture):
            shown_s = packet.dts * packet.time_base
            container.mux(packet)
            _mux_until(container, heard, shown_s)
        _mux_until(container, heard, inf)


def _pictures(pieces: Sequence[Path], times_s: Sequence[Fraction], stream: VideoStream) -> Iterator[Any]:
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


def _placed(packets: Iterator[Any], offset_s: Fraction, end_s: Fraction | None) -> Iterator[Packet]:
    for packet in packets:
        begins_s = packet.pts * packet.time_base + offset_s
        if begins_s + (packet.duration or 0) * packet.time_base <= 0 and offset_s < 0:
            continue
        if end_s is not None and begins_s >= end_s:
            return
        shift = round(offset_s / packet.time_base)
        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
        yield packet
