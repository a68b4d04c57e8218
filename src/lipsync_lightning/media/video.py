"""Read video, one frame in memory at a time.

Frames are (H, W, 3) uint8 RGB everywhere, upright: rotation metadata is applied on reading. A video's time zero is its
first shown frame.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from itertools import dropwhile
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.filter import Graph
from av.stream import Disposition
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream

from lipsync_lightning.errors import BadMedia, ClipTooShort
from lipsync_lightning.media.resampling import shown_frames

# FFmpeg's default conversion darkens a picture by about one level in 255; with these the mean error is below 0.03.
EXACT_COLOURS = (
    Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)


@dataclass(frozen=True)
class VideoInfo:
    """What a video is, as a viewer sees it."""

    width: int  # pixels, after rotation
    height: int  # pixels, after rotation
    fps: Fraction  # frames per second, on average
    duration_s: float
    has_audio: bool


@dataclass(frozen=True)
class TimedFrame:
    """A picture, when it is shown after the video's first one, and for how long."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    time_s: Fraction
    duration_s: Fraction


@contextmanager
def open_media(path: Path | str) -> Iterator[InputContainer]:
    """Yield the opened file; what FFmpeg cannot read inside the `with` block becomes an error that names the file.

    Raises: BadMedia, if the file is missing, empty, truncated or not media.
    """
    path = Path(path)
    if not path.is_file():
        raise BadMedia(f"{path}: no such file; check the path")
    if path.stat().st_size == 0:
        raise BadMedia(f"{path}: the file is empty; copy or download it again")
    try:
        with av.open(str(path.absolute()), "r", metadata_errors="replace") as container:
            if not (container.streams.video or container.streams.audio):
                raise BadMedia(f"{path}: neither picture nor sound in it; copy or download it again")
            yield container
    except FFmpegError as error:
        raise BadMedia(f"{path}: not readable as video or sound ({error.strerror}); copy or convert it") from error


def video_stream(container: InputContainer) -> VideoStream | None:
    """Return the first moving picture in a container, passing over cover art; None if there is none."""
    moving = (stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic)
    return next(moving, None)


def require_whole(container: InputContainer, path: Path | str) -> None:
    """Raises: BadMedia, if the file is shorter than its own index says."""
    entries = [stream.index_entries[-1] for stream in container.streams if len(stream.index_entries)]
    stated_bytes = max((entry.pos + entry.size for entry in entries), default=0)
    if stated_bytes > container.size:
        raise BadMedia(f"{path}: truncated, {container.size} of {stated_bytes} bytes; copy or download it again")


def probe(path: Path | str) -> VideoInfo:
    """Return size, rate and length of a video, having decoded its first frame.

    Raises: BadMedia, if the file is missing, empty, truncated, not media, or has no moving picture.
    """
    with open_media(path) as container:
        stream = _require_video(container, path)
        require_whole(container, path)
        stream.codec_context.thread_count = 1
        first = next(container.decode(stream), None)
        if first is None:
            raise BadMedia(f"{path}: the video stream holds no frame; copy or convert the file again")
        height, width = _upright(first, np.empty((first.height, first.width, 0), np.uint8)).shape[:2]
        fps = stream.average_rate or stream.guessed_rate
        if fps is None:
            raise BadMedia(f"{path}: states no frame rate; convert it to mp4 first")
        if stream.duration is not None and stream.time_base is not None:
            duration_s = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            duration_s = container.duration / av.time_base
        else:
            duration_s = _measured_duration_s(path, fps)
        return VideoInfo(width, height, fps, duration_s, has_audio=bool(container.streams.audio))


def read_frames(
    path: Path | str, fps: float | None = None, *, start_s: float = 0.0, stop_s: float | None = None
) -> Iterator[np.ndarray]:
    """Yield the frames of a video in the order they are shown, each (H, W, 3) uint8 RGB and upright.

    Args:
        fps: None for the file's own frames; else a constant rate: frame k is the one on screen start_s + k / fps
            seconds after the first.
        start_s, stop_s: seconds after the file's first frame; frames that begin before `start_s`, or at `stop_s` or
            later, are left out. What lies long before `start_s` is not decoded. None for the end.
    Raises: BadMedia, on first use, if the file cannot be read; where decoding breaks, saying how many frames came
        before; if no frame lies between `start_s` and `stop_s`.
    """
    num_read = 0
    try:
        with open_media(path) as container:
            stream = _require_video(container, path)
            stream.thread_type = "AUTO"
            # As many as this process has: one where every core has a worker.
            stream.codec_context.thread_count = cv2.getNumThreads()
            for frame in shown_frames(container, stream, fps=fps, start_s=start_s, stop_s=stop_s):
                yield to_rgb(frame)
                num_read += 1
            require_whole(container, path)
    except BadMedia as error:
        if num_read == 0:
            raise
        raise BadMedia(f"{path}: breaks off after {num_read} frames; cut it there or copy it again") from error
    if num_read == 0:
        until = "its end" if stop_s is None else f"{stop_s} s"
        raise BadMedia(f"{path}: no frame between {start_s} s and {until}; convert the file, or ask for another part")


def decode_planes(data: bytes, starts: Sequence[int], num_frames: int, top: float = 0.0) -> list[np.ndarray]:
    """Return one (T, 3, h, W) uint8 RGB window per start, each frame decoded once and in one thread.

    Args: top: share of the height that is left out, and not converted to RGB: 0.5 gives lower halves.
    Raises: ClipTooShort, if a window leaves the clip; BadMedia, if the clip does not decode.
    """
    try:
        with av.open(BytesIO(data), "r") as container:
            stream = video_stream(container)
            if stream is None:
                raise BadMedia("a clip holds no video; write its shard again")
            stream.codec_context.thread_count = 1
            for first in starts:
                if first < 0 or num_frames < 1 or first + num_frames > stream.frames:
                    asked = f"frames {first} to {first + num_frames - 1} were asked"
                    raise ClipTooShort(f"{asked} of a clip of {stream.frames} frames")
            numbers = sorted({number for first in starts for number in range(first, first + num_frames)})
            planes = _read_planes(container, stream, numbers, top)
    except FFmpegError as error:
        raise BadMedia(f"a clip does not decode ({error.strerror}); write its shard again") from error
    places = [bisect_left(numbers, first) for first in starts]
    return [planes[place : place + num_frames] for place in places]


def _read_planes(container: InputContainer, stream: VideoStream, numbers: list[int], top: float) -> np.ndarray:
    """Return the lower part (F, 3, h, W) of frames whose numbers ascend."""
    height, width = stream.codec_context.height, stream.codec_context.width
    first_row = int(height * top)
    # Colours have half the rows, and the first kept one is mixed with that above it.
    first_read = max(first_row - 2, 0) // 2 * 2
    graph = Graph()
    crop = graph.add("crop", f"{width}:{height - first_read}:0:{first_read}")
    graph.link_nodes(graph.add_buffer(template=stream), crop, graph.add("buffersink")).configure()
    planes = np.empty((len(numbers), 3, height - first_row, width), np.uint8)
    assert stream.average_rate is not None
    assert stream.time_base is not None
    decoded: Iterator[av.VideoFrame] = iter(())
    for place, number in enumerate(numbers):
        if place == 0 or number > numbers[place - 1] + 1:
            first_pts = (stream.start_time or 0) + round(number / stream.average_rate / stream.time_base)
            container.seek(first_pts, stream=stream)
            decoded = dropwhile(lambda frame, pts=first_pts: (frame.pts or 0) < pts, container.decode(stream))
        frame = next(decoded, None)
        if frame is None:
            raise BadMedia(f"a clip of {stream.frames} frames ends after {number}; write its shard again")
        graph.vpush(frame)
        planes[place] = [plane[first_row - first_read :] for plane in rgb_planes(graph.vpull())]
    return planes


def _require_video(container: InputContainer, path: Path | str) -> VideoStream:
    stream = video_stream(container)
    if stream is None:
        kinds = sorted({stream.type for stream in container.streams})
        raise BadMedia(f"{path}: no moving picture in it, only {kinds}; give a video file")
    return stream


def _measured_duration_s(path: Path | str, fps: Fraction) -> float:
    """Return how long a stream lasts that does not say so, by its packets."""
    with open_media(path) as container:
        stream = _require_video(container, path)
        packets = [packet for packet in container.demux(stream) if packet.size]
        times = [packet.pts for packet in packets if packet.pts is not None]
        if stream.time_base is None or len(times) < len(packets):
            return float(len(packets) / fps)
        return float((max(times) - min(times)) * stream.time_base + 1 / fps)


def to_rgb(frame: av.VideoFrame) -> np.ndarray:
    """Return the upright picture, (H, W, 3) uint8, without a shift in colour."""
    return np.ascontiguousarray(_upright(frame, cv2.merge(rgb_planes(frame))))


def rgb_planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """Return red, green and blue (H, W), uint8, of a picture as it is stored, without a shift in colour."""
    # By way of planes, because FFmpeg interleaves exact colours more than twice as slowly.
    planes: Any = frame.reformat(format="gbrp", interpolation=EXACT_COLOURS, threads=1).planes
    green, blue, red = (
        np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width] for plane in planes
    )
    return [red, green, blue]


def _upright(frame: av.VideoFrame, rgb: np.ndarray) -> np.ndarray:
    """Return the picture turned and mirrored by the frame's display matrix (`libavutil/display.h`).

    It says x' = a x + c y, y' = b x + d y.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return rgb
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5]
    if abs(b) > abs(a):
        turned, flip_x, flip_y = rgb.swapaxes(0, 1), c < 0, b < 0
    else:
        turned, flip_x, flip_y = rgb, a < 0, d < 0
    return turned[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
