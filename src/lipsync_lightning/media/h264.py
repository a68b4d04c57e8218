"""Encode pictures as H.264 without a shift in colour."""

from fractions import Fraction

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream

from lipsync_lightning.errors import BadConfig

# From RGB in 0 to 255 to luma and both colour differences in limited range: ITU-R BT.709, sections 3.2 to 4.6. OpenCV
# does it in half of the time that FFmpeg's exact conversion takes.
_LUMA = np.array([0.2126, 0.7152, 0.0722])
_BLUE, _RED = (np.array([0, 0, 1]) - _LUMA) / 1.8556, (np.array([1, 0, 0]) - _LUMA) / 1.5748
_BT709 = np.column_stack([np.stack([219 * _LUMA, 224 * _BLUE, 224 * _RED]) / 255, [16, 128, 128]])


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
    require_shape(frame, (stream.codec_context.height, stream.codec_context.width, 3), index)
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


def require_shape(frame: np.ndarray, expected: tuple[int, int, int], number: int) -> None:
    if frame.shape != expected or frame.dtype != np.uint8:
        raise ValueError(f"frame {number} is {frame.shape} {frame.dtype}, expected {expected} uint8")


def require_known(crf: float, preset: str) -> None:
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
