"""Read, write and cut video, one frame in memory at a time.

Frames are (H, W, 3) uint8 RGB everywhere, upright: rotation metadata is applied on reading. A video's time zero is its first shown frame.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Self

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.stream import VideoStream

from lipsync_lightning.errors import BadMedia, ClipTooShort
from lipsync_lightning.media.h264 import add_h264, exact_rate, to_rgb, to_yuv, upright
from lipsync_lightning.media.resampling import shown_frames


@dataclass(frozen=True)
class VideoInfo:
    """What a video is, as a viewer sees it."""

    width: int  # pixels, after rotation
    height: int  # pixels, after rotation
    fps: Fraction  # frames per second, on average
    duration_s: float
    has_audio: bool


@contextmanager
def open_media(path: Path | str) -> Iterator[InputContainer]:
    """Yield the opened file; whatever FFmpeg cannot read inside the `with` block becomes an error that names the file.

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
                raise BadMedia(
                    f"{path}: neither picture nor sound in it, it may be truncated; copy or download it again"
                )
            yield container
    except FFmpegError as error:
        raise BadMedia(
            f"{path}: not readable as video or sound ({error.strerror}); play it to check, then copy or convert it again"
        ) from error


def video_stream(container: InputContainer) -> VideoStream | None:
    """Return the first moving picture in a container, passing over cover art; None if there is none."""
    moving = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    return moving[0] if moving else None


def require_whole(container: InputContainer, path: Path | str) -> None:
    """Raises: BadMedia, if the file is shorter than its own index says."""
    ends = [
        entries[len(entries) - 1] for entries in (stream.index_entries for stream in container.streams) if len(entries)
    ]
    stated_bytes = max((entry.pos + entry.size for entry in ends), default=0)
    if stated_bytes > container.size:
        raise BadMedia(
            f"{path}: truncated, {container.size} bytes of at least {stated_bytes}; copy or download it again"
        )


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
        height, width = upright(first, np.empty((first.height, first.width, 0), np.uint8)).shape[:2]
        fps = stream.average_rate or stream.guessed_rate
        if fps is None:
            raise BadMedia(f"{path}: states no frame rate; convert it to mp4 first")
        duration_s = _stated_duration_s(container, stream)
        has_audio = bool(container.streams.audio)
    return VideoInfo(
        width, height, fps, _measured_duration_s(path, fps) if duration_s is None else duration_s, has_audio
    )


def read_frames(
    path: Path | str, fps: float | None = None, *, start_s: float = 0.0, stop_s: float | None = None
) -> Iterator[np.ndarray]:
    """Yield the frames of a video in the order they are shown, each (H, W, 3) uint8 RGB and upright.

    Args:
        fps: None for the file's own frames; else a constant rate: frame k is the one on screen start_s + k / fps seconds after the first.
        start_s, stop_s: seconds after the file's first frame; frames that begin before `start_s`, or at `stop_s` or later, are left
            out. What lies long before `start_s` is not decoded. None for the end.
    Raises: BadMedia, on first use if the file cannot be read, or at the frame where decoding breaks, saying how many came before;
        if no frame lies between `start_s` and `stop_s`.
    """
    num_read = 0
    try:
        with open_media(path) as container:
            stream = _require_video(container, path)
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = (
                cv2.getNumThreads()
            )  # of this process: one where every core has a worker
            for frame in shown_frames(container, stream, fps=fps, start_s=start_s, stop_s=stop_s):
                yield to_rgb(frame)
                num_read += 1
            require_whole(container, path)
    except BadMedia as error:
        if num_read == 0:
            raise
        raise BadMedia(f"{path}: breaks off after {num_read} frames; cut it there or copy it again") from error
    if num_read == 0:
        if start_s == 0 and stop_s is None:
            raise BadMedia(f"{path}: the video stream holds no frame; copy or convert the file again")
        until = "its end" if stop_s is None else f"{stop_s} s"
        raise BadMedia(f"{path}: there is no frame between {start_s} s and {until}; ask for a part that it has")


class VideoWriter:
    """Write RGB frames to an H.264 mp4 that appears under its name only when complete.

    Until then it is `<name>.part` beside it; an exception inside the `with` block removes that and leaves any former file as it was.
    Odd sizes are kept: they are stored as 4:4:4, since 4:2:0 needs even ones.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        width: int,
        height: int,
        fps: float,
        crf: int = 18,
        gop: int | None = None,
        preset: str = "veryfast",
    ):
        self.path = Path(path)
        self.width = width
        self.height = height
        self.fps = exact_rate(fps)
        self.num_written = 0
        self._options = {"crf": str(crf), "preset": preset}
        self._gop = gop
        self._part = self.path.with_name(self.path.name + ".part")

    def __enter__(self) -> Self:
        self.container = av.open(
            str(self._part.absolute()), "w", format="mp4", container_options={"movflags": "+faststart"}
        )
        self._stream = add_h264(self.container, self.width, self.height, self.fps, self._options)
        if self._gop is not None:
            self._stream.codec_context.gop_size = self._gop
        return self

    def write(self, frame: np.ndarray) -> None:
        """Append one frame, (height, width, 3) uint8 RGB.

        Raises: ValueError, if it has another shape or type.
        """
        self.container.mux(self._stream.encode(to_yuv(frame, self._stream, self.num_written)))
        self.num_written += 1

    @property
    def seconds_written(self) -> Fraction:
        return self.num_written / self.fps

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            with self.container:
                if kind is None:
                    self._finish()
        except BaseException:
            self._part.unlink(missing_ok=True)
            raise
        if kind is None:
            self._part.replace(self.path)
        else:
            self._part.unlink(missing_ok=True)

    def _finish(self) -> None:
        if self.num_written == 0:
            raise BadMedia(
                f"{self.path}: not written, since there was no frame to write; check what the frames were made from"
            )
        self.container.mux(self._stream.encode(None))


def encode_clip(frames: Iterable[np.ndarray], *, fps: float, gop: int = 12, crf: int = 18) -> bytes:
    """Return a self-contained H.264 mp4 in which any window is found with one seek: closed groups of `gop` frames, no B-frames.

    Args:
        frames: (H, W, 3) uint8 RGB, all of one size.
    Raises: ClipTooShort, if there is no frame; ValueError, if the frames differ in size.
    """
    data = BytesIO()
    num_written = 0
    with av.open(data, "w", format="mp4") as container:
        stream = None
        for frame in frames:
            if stream is None:
                options = {"crf": str(crf), "preset": "veryfast", "bf": "0", "sc_threshold": "0", "flags": "+cgop"}
                stream = add_h264(container, frame.shape[1], frame.shape[0], exact_rate(fps), options)
                stream.codec_context.gop_size = gop
                stream.codec_context.thread_count = 1
            container.mux(stream.encode(to_yuv(frame, stream, num_written)))
            num_written += 1
        if stream is None:
            raise ClipTooShort("a clip needs at least one frame, none came; check what the frames were made from")
        container.mux(stream.encode(None))
    return data.getvalue()


def count_frames(data: bytes) -> int:
    """Return how many frames a clip of `encode_clip` holds. Raises: BadMedia, if it is not such a clip."""
    with _open_clip(data) as (_, stream):
        return stream.frames


def decode_window(data: bytes, first_frame: int, num_frames: int) -> np.ndarray:
    """Return frames `first_frame` to `first_frame + num_frames - 1` of a clip: (T, H, W, 3) uint8 RGB.

    Raises: ClipTooShort, if the window leaves the clip; BadMedia, if the clip does not decode.
    """
    return decode_windows(data, [first_frame], num_frames)[0]


def decode_windows(data: bytes, starts: Sequence[int], num_frames: int) -> list[np.ndarray]:
    """Return one (T, H, W, 3) uint8 RGB window per start, opening the clip once and decoding in one thread.

    Raises: ClipTooShort, if a window leaves the clip; BadMedia, if the clip does not decode.
    """
    with _open_clip(data) as (container, stream):
        return [_read_window(container, stream, first_frame, num_frames) for first_frame in starts]


@contextmanager
def _open_clip(data: bytes) -> Iterator[tuple[InputContainer, VideoStream]]:
    try:
        with av.open(BytesIO(data), "r") as container:
            stream = video_stream(container)
            if stream is None:
                raise BadMedia(f"a clip of {len(data)} bytes holds no video; write its shard again")
            stream.codec_context.thread_count = 1
            yield container, stream
    except FFmpegError as error:
        raise BadMedia(
            f"a clip of {len(data)} bytes does not decode ({error.strerror}); write its shard again"
        ) from error


def _read_window(container: InputContainer, stream: VideoStream, first_frame: int, num_frames: int) -> np.ndarray:
    end_frame = first_frame + num_frames
    if first_frame < 0 or num_frames < 1 or end_frame > stream.frames:
        raise ClipTooShort(
            f"frames {first_frame} to {end_frame - 1} were asked of a clip of {stream.frames}; ask for a window inside it"
        )
    assert stream.average_rate is not None
    assert stream.time_base is not None
    first_pts = (stream.start_time or 0) + round(first_frame / stream.average_rate / stream.time_base)
    container.seek(first_pts, stream=stream)
    wanted = (frame for frame in container.decode(stream) if frame.pts is not None and frame.pts >= first_pts)
    window = [to_rgb(frame) for frame in islice(wanted, num_frames)]
    if len(window) < num_frames:
        raise BadMedia(
            f"a clip that states {stream.frames} frames ends after {first_frame + len(window)}; write its shard again"
        )
    return np.stack(window)


def _require_video(container: InputContainer, path: Path | str) -> VideoStream:
    stream = video_stream(container)
    if stream is None:
        kinds = sorted({stream.type for stream in container.streams}) or "nothing"
        raise BadMedia(f"{path}: no moving picture in it, only {kinds}; give a video file")
    return stream


def _stated_duration_s(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base


def _measured_duration_s(path: Path | str, fps: Fraction) -> float:
    with open_media(path) as container:
        stream = _require_video(container, path)
        times = [packet.pts for packet in container.demux(stream) if packet.size]
        stated = [time for time in times if time is not None]
        if stream.time_base is None or len(stated) < len(times):
            return float(len(times) / fps)
        return float((max(stated) - min(stated)) * stream.time_base + 1 / fps)
