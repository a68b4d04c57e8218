"""Read video, one frame in memory at a time.

Frames are (H, W, 3) uint8 RGB everywhere, in the colours of BT.709, upright: rotation metadata is applied on reading. A
video's time zero is its first shown frame, and all its frames have the size of that one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.stream import VideoStream

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.media.colour import rgb_planes, told_conversions
from lipsync_lightning.media.resampling import exact, shown_frames

_USUAL_FPS = Fraction(25)
# Tags that describe the file and not what is in it.
_TECHNICAL = ("brand", "encoder", "handler_name", "vendor_id", "language", "minor_version", "alpha_mode", "duration")
_TECHNICAL += ("bps", "number_of_", "statistics")
# As long as a part that is kept in memory to be shown backwards.
_REVERSED_S = 1


@dataclass(frozen=True)
class VideoInfo:
    """What a video is, as a viewer sees it."""

    width: int  # pixels, after rotation
    height: int  # pixels, after rotation
    fps: Fraction  # frames per second, on average
    duration_s: float  # a hint, since headers can be wrong
    has_audio: bool
    pixel_aspect: Fraction = Fraction(1)  # a pixel's width by its height, after rotation
    is_photo: bool = False
    metadata: dict[str, str] = field(default_factory=dict)  # title, creation_time, timecode, ...
    told: tuple[str, ...] = ()  # what is converted or lost, each in one sentence

    @property
    def about_frames(self) -> int:
        """How many frames there may be, for a progress bar."""
        return max(1, round(self.duration_s * float(self.fps)))


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
    """Return the moving picture that players show, passing over cover art; None if there is none."""
    moving = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    return max(moving, key=lambda stream: bool(stream.disposition & Disposition.default), default=None)


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
        height, width = _upright_size(first)
        fps = stream.average_rate or stream.guessed_rate or _USUAL_FPS
        if stream.duration is not None and stream.time_base is not None:
            duration_s = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            duration_s = container.duration / av.time_base
        else:
            duration_s = _measured_duration_s(path, fps)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        is_photo = container.format.name == "image2" or container.format.name.endswith("_pipe")
        return VideoInfo(
            width,
            height,
            fps,
            duration_s,
            has_audio=bool(container.streams.audio),
            pixel_aspect=1 / aspect if first.rotation % 180 else aspect,
            is_photo=is_photo,
            metadata=_metadata(container, stream),
            told=_told(first, stream, is_photo),
        )


def _metadata(container: InputContainer, stream: VideoStream) -> dict[str, str]:
    tags = {name.lower(): value for name, value in (stream.metadata | container.metadata).items()}
    return {name: value for name, value in tags.items() if not any(part in name for part in _TECHNICAL)}


def _told(first: av.VideoFrame, stream: VideoStream, is_photo: bool) -> tuple[str, ...]:
    told = told_conversions(first, is_photo=is_photo)
    if first.interlaced_frame:
        told.append("interlaced: deinterlaced")
    has_alpha = any(component.is_alpha for component in first.format.components)
    is_clear = has_alpha and first.to_ndarray(format="rgba")[..., 3].min() < 255
    if is_clear or stream.metadata.get("alpha_mode") == "1":
        told.append("transparency is lost")
    return tuple(told)


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
    return (frame.image for frame in _frames(path, fps, start_s, stop_s))


def timed_frames(path: Path | str, *, start_s: float = 0.0, stop_s: float | None = None) -> Iterator[TimedFrame]:
    """Yield every frame of a video once, with its own time; a photo is a video of one frame.

    Times rise strictly. Where the clock of a file starts again, as where two recordings were joined, they go on where
    the frame before ended.

    Args: start_s, stop_s: as in `read_frames`. Times are counted from the file's first frame all the same.
    Raises: BadMedia, as `read_frames` does.
    """
    return _frames(path, None, start_s, stop_s)


def timed_frames_reversed(path: Path | str, *, start_s: float = 0.0, stop_s: float) -> Iterator[TimedFrame]:
    """Yield the frames of `timed_frames`, the last one first, at times from 0 on; a second of them is in memory.

    Args: stop_s: no later than the end of the last frame.
    Raises: BadMedia, as `read_frames` does.
    """
    start, until = exact(start_s), exact(stop_s)
    now = Fraction(0)
    while until > start:
        since = max(start, until - _REVERSED_S)
        part = list(_frames(path, None, float(since), float(until), may_be_empty=True))
        for frame in reversed(part):
            yield TimedFrame(frame.image, now, frame.duration_s)
            now += frame.duration_s
        until = since


def _frames(
    path: Path | str, fps: float | None, start_s: float, stop_s: float | None, *, may_be_empty: bool = False
) -> Iterator[TimedFrame]:
    num_read = 0
    try:
        with open_media(path) as container:
            stream = _require_video(container, path)
            stream.thread_type = "AUTO"
            # As many as this process has: one where every core has a worker.
            stream.codec_context.thread_count = cv2.getNumThreads()
            frames = container.decode(stream)
            first = next(frames, None)
            if first is not None:
                size = _upright_size(first)
                frames = chain([first], frames)
                shown = shown_frames(container, stream, frames, fps=fps, start_s=start_s, stop_s=stop_s)
                for frame, begin, end in shown:
                    yield TimedFrame(_letterboxed(to_rgb(frame), *size), begin, end - begin)
                    num_read += 1
            require_whole(container, path)
    except BadMedia as error:
        if num_read == 0:
            raise
        raise BadMedia(f"{path}: breaks off after {num_read} frames; cut it there or copy it again") from error
    if num_read == 0 and not may_be_empty:
        until = "its end" if stop_s is None else f"{stop_s} s"
        raise BadMedia(f"{path}: no frame between {start_s} s and {until}; convert the file, or ask for another part")


def _letterboxed(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the whole picture at this size, with black beside it where its shape is another."""
    old_height, old_width = rgb.shape[:2]
    if (old_height, old_width) == (height, width):
        return rgb
    scale = min(height / old_height, width / old_width)
    inner = (max(1, round(old_width * scale)), max(1, round(old_height * scale)))
    smaller = cv2.resize(rgb, inner, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    bars = (top, height - inner[1] - top, left, width - inner[0] - left)
    return cv2.copyMakeBorder(smaller, *bars, cv2.BORDER_CONSTANT)


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


def _upright(frame: av.VideoFrame, rgb: np.ndarray) -> np.ndarray:
    """Return the picture turned and mirrored by the frame's display matrix (`libavutil/display.h`).

    It says x' = a x + c y, y' = b x + d y.
    """
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV 18 stumbles over the EXIF data of photos, but knows the angle
        return np.rot90(rgb, frame.rotation // 90)
    if matrix is None:
        return rgb
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5]
    if abs(b) > abs(a):
        turned, flip_x, flip_y = rgb.swapaxes(0, 1), c < 0, b < 0
    else:
        turned, flip_x, flip_y = rgb, a < 0, d < 0
    return turned[:: -1 if flip_y else 1, :: -1 if flip_x else 1]


def _upright_size(frame: av.VideoFrame) -> tuple[int, int]:
    """Return height and width."""
    height, width, _ = _upright(frame, np.empty((frame.height, frame.width, 0), np.uint8)).shape
    return height, width
