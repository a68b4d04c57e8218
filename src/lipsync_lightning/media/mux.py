"""Write pictures and sound into one file that all players play; write the clips of a shard."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from io import BytesIO
from itertools import chain, islice
from math import lcm
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream

from lipsync_lightning.errors import BadConfig, BadMedia
from lipsync_lightning.files import whole_file
from lipsync_lightning.media.resampling import exact
from lipsync_lightning.media.soundtrack import sound_packets

_CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}  # by the ending of a file's name
# What a file says of itself and not of what it shows.
_OF_THE_FILE = {"major_brand", "minor_version", "compatible_brands", "encoder", "handler_name", "vendor_id", "language"}

_CLOCK_HZ = 90000  # what most frame rates divide

# From RGB in 0 to 255 to luma and both colour differences in limited range: ITU-R BT.709, sections 3.2 to 4.6. OpenCV
# does it in half of the time that FFmpeg's exact conversion takes.
_LUMA = np.array([0.2126, 0.7152, 0.0722])
_BLUE, _RED = (np.array([0, 0, 1]) - _LUMA) / 1.8556, (np.array([1, 0, 0]) - _LUMA) / 1.5748
_BT709 = np.column_stack([np.stack([219 * _LUMA, 224 * _BLUE, 224 * _RED]) / 255, [16, 128, 128]])


@contextmanager
def video_writer(
    path: Path | str,
    *,
    width: int,
    height: int,
    fps: float,
    sound: Path | str | None = None,
    audio_track: int | str | None = None,
    keep_sound: bool = False,
    pixel_aspect: Fraction = Fraction(1),
    metadata: Mapping[str, str] | None = None,
    crf: int = 18,
    preset: str = "veryfast",
    num_threads: int = 0,
) -> Iterator[Callable[..., None]]:
    """Yield `write(frame, time_s=None, duration_s=None)`, which appends (height, width, 3) uint8 RGB as H.264.

    The name's ending says how it is stored: .mp4, .m4v, .mov or .mkv. The file appears when the block ends; after an
    exception, any former file is as it was. An odd width or height is made even by its last column or row once more,
    since players take only 4:2:0.

    A frame is shown from `time_s`, seconds after the beginning, until the next one's, the last one for `duration_s`.
    With no times at all, frame k is shown at k / fps.

    The sound is kept whole, however long the picture is, and starts as `read_audio` has it: with the first frame of
    `sound`, or with its own beginning if there is no picture. AAC and MP3 are copied packet by packet; any other sound
    becomes AAC, mono, stereo or 5.1, which all players take.

    Args:
        audio_track: as of `read_audio`.
        keep_sound: copy any sound that the file takes, and store other samples without a loss, as FLAC, or as ALAC in
            .mov (of 32-bit and float ones the upper 24 bits; more than 8 channels are mixed).
        pixel_aspect: width of a pixel by its height.
        metadata: such as title, comment, creation_time or timecode; mp4 and mov leave out names that they do not know.
        num_threads: of the encoder, whose pictures differ by it; 0 for one a core.
    Raises: MissingAudio, if `sound` has none; BadMedia, if it cannot be read, if no frame was written, or if what was
        written fits no such file; ValueError, if a frame has another shape or type; BadConfig, for another ending, a
        track that is not there, or a `crf` or `preset` that x264 does not know.
    """
    path, rate, end_s = Path(path), exact(fps), Fraction(0)
    options = {"crf": str(crf), "preset": preset}
    _require_known(crf, preset)
    with _told_of(path), whole_file(path) as part, _container(path, part, metadata or {}) as container:
        stream = add_h264(container, width=width + width % 2, height=height + height % 2, fps=rate, options=options)
        stream.codec_context.sample_aspect_ratio = pixel_aspect
        stream.codec_context.thread_count = num_threads
        packets = iter(()) if sound is None else sound_packets(sound, container, audio_track, keep=keep_sound)
        # The first packet is read now, because every stream must be known before anything is written.
        packets = chain(list(islice(packets, 1)), packets)
        picture = _Picture(stream, (height, width, 3), rate)

        def write(frame: np.ndarray, time_s: Fraction | None = None, duration_s: Fraction | None = None) -> None:
            nonlocal end_s
            container.mux(picture.packets(frame, time_s, duration_s))
            end_s = picture.end_s
            for packet in packets:
                container.mux(packet)
                if packet.dts is not None and packet.dts * packet.time_base >= end_s:
                    break

        yield write
        if end_s == 0:
            raise BadMedia(f"{path}: not written, no frame came; check what the frames were made from")
        for packet in packets:
            container.mux(packet)
        container.mux(picture.last_packets())


class _Picture:
    """Frames and their times on the way to a stream."""

    def __init__(self, stream: VideoStream, shape: tuple[int, int, int], rate: Fraction) -> None:
        self._stream, self._shape, self._rate = stream, shape, rate
        self._number, self._pts, self._duration = 0, -1, 1
        self.end_s = Fraction(0)  # of what is there, as far as it is known

    def packets(self, frame: np.ndarray, time_s: Fraction | None, duration_s: Fraction | None) -> list[Packet]:
        _require_shape(frame, self._shape, self._number)
        context = self._stream.codec_context
        if self._number == 0 and time_s is not None:
            context.time_base = Fraction(1, lcm(_CLOCK_HZ, self._rate.numerator))
            context.max_b_frames = 0  # else files would tell no frame's own duration
        begin_s = self._number / self._rate if time_s is None else Fraction(time_s)
        length_s = Fraction(duration_s or 1 / self._rate)
        self._pts = max(self._pts + 1, round(begin_s / context.time_base))
        self._duration = max(1, round(length_s / context.time_base))
        self._number, self.end_s = self._number + 1, begin_s + length_s
        even = cv2.copyMakeBorder(frame, 0, frame.shape[0] % 2, 0, frame.shape[1] % 2, cv2.BORDER_REPLICATE)
        return self._stream.encode(to_yuv(even, self._stream, self._pts))

    def last_packets(self) -> list[Packet]:
        packets = self._stream.encode(None)
        for packet in packets:
            if packet.pts == self._pts:
                packet.duration = self._duration
        return packets


def _require_known(crf: float, preset: str) -> None:
    """Raises: BadConfig, if x264 does not know them."""
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt, context.time_base = 16, 16, "yuv420p", Fraction(1, 25)
    context.options = {"crf": str(crf), "preset": preset}
    try:
        if not 0 <= float(crf) <= 51:  # x264 would choose another
            raise ValueError(crf)
        context.open()
    except (FFmpegError, ValueError) as error:
        told = f"crf={crf!r} and preset={preset!r} mean nothing to x264"
        raise BadConfig(f"{told}; give a number from 0 to 51 and a preset's name, such as veryfast") from error


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


def _container(path: Path, part: Path, metadata: Mapping[str, str]) -> OutputContainer:
    """Return an empty file `part`, of the kind that the name `path` says. Raises: BadConfig, if it says none."""
    kind = "mp4" if path.exists() and path.samefile(os.devnull) else _CONTAINERS.get(path.suffix.lower())
    if kind is None:
        raise BadConfig(f"{path}: videos are written as {', '.join(_CONTAINERS)}; give a name that ends so")
    kept = {name: str(text) for name, text in metadata.items() if name.lower() not in _OF_THE_FILE}
    flags = "+faststart"
    if any("." in name for name in kept):  # com.apple.quicktime.…, as telephones write them
        flags += "+use_metadata_tags"
    options = {} if kind == "matroska" else {"movflags": flags}
    container = av.open(str(part.absolute()), "w", format=kind, container_options=options)
    container.metadata.update(kept)
    return container


def encode_clip(frames: np.ndarray | Sequence[np.ndarray], *, fps: float, gop: int = 12) -> bytes:
    """Return an H.264 mp4 in which any window is found with one seek: closed groups of `gop` frames, no B-frames.

    It is decoded in half the time of a usual one, has 7 % more bytes and loses 0.1 dB (`benchmarks/README.md`).

    Args:
        frames: at least one, (H, W, 3) uint8 RGB, all of one size; else ValueError.
    """
    height, width = frames[0].shape[:2]
    options = {"crf": "18", "preset": "veryfast", "tune": "fastdecode", "bf": "0", "sc_threshold": "0"}
    options |= {"flags": "+cgop"}
    data = BytesIO()
    with av.open(data, "w", format="mp4") as container:
        stream = add_h264(container, width=width, height=height, fps=exact(fps), options=options)
        stream.codec_context.gop_size = gop
        stream.codec_context.thread_count = 1
        for index, frame in enumerate(frames):
            container.mux(stream.encode(to_yuv(frame, stream, index)))
        container.mux(stream.encode(None))
    return data.getvalue()


def add_h264(
    container: OutputContainer, *, width: int, height: int, fps: Fraction, options: dict[str, str]
) -> VideoStream:
    """Return a new stream for `to_yuv`'s frames, tagged as BT.709 in limited range."""
    stream = container.add_stream("libx264", rate=fps, options=options)
    context = stream.codec_context
    context.width, context.height = width, height
    context.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
    context.time_base = 1 / fps
    context.colorspace = Colorspace.ITU709
    context.color_primaries = ColorPrimaries.BT709
    context.color_trc = ColorTrc.BT709
    context.color_range = ColorRange.MPEG
    return stream


def to_yuv(frame: np.ndarray, stream: VideoStream, index: int) -> av.VideoFrame:
    """Return frame `index` of a stream, from (H, W, 3) uint8 RGB, without a shift in colour."""
    _require_shape(frame, (stream.codec_context.height, stream.codec_context.width, 3), index)
    yuv = av.VideoFrame(frame.shape[1], frame.shape[0], stream.codec_context.pix_fmt or "yuv420p")
    size = (yuv.planes[1].width, yuv.planes[1].height)  # of colour differences: half of luma's, or the same
    whole, shrunk = cv2.transform(frame, _BT709), cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    colours = cv2.transform(shrunk, _BT709)
    for channel, (plane, source) in enumerate(zip(yuv.planes, (whole, colours, colours), strict=True)):
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)  # pyright: ignore
        cv2.extractChannel(source, channel, rows[:, : plane.width])
    yuv.colorspace, yuv.color_range = Colorspace.ITU709, ColorRange.MPEG
    yuv.pts = index
    yuv.time_base = stream.codec_context.time_base
    return yuv


def _require_shape(frame: np.ndarray, expected: tuple[int, int, int], number: int) -> None:
    if frame.shape != expected or frame.dtype != np.uint8:
        raise ValueError(f"frame {number} is {frame.shape} {frame.dtype}, expected {expected} uint8")
