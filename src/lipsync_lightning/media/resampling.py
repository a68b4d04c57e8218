"""Which decoded frame is on screen when: a part of a video, found by seeking, and a constant frame rate.

Times are exact fractions of a second, counted from the frame that the video shows first.
"""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import chain, dropwhile, pairwise, takewhile

import av
from av.container import InputContainer
from av.format import Flags
from av.video.stream import VideoStream

from lipsync_lightning.media.fields import Shown, deinterlaced

# Matroska and FLV store times in whole milliseconds, so a frame can seem to come this much late.
_CLOCK_ROUNDING_S = Fraction(1, 1000)
# How much before the wanted time to seek, one after the other: files without an index, and indices of decoding times,
# can lead to a key frame that is shown too late, or to none.
_SECONDS_BACK = (0, 2, 8, 32)
# A clock that steps back or leaps by more than this has started again, as where files were joined; what is less is a
# clock that stutters, or a pause. Those of FFmpeg (`ts_discontinuity_process`): only a transport or program stream may
# start again at a later time. Elsewhere a picture may stand for minutes, as that of a screen does.
_STEP_BACK_S = Fraction(1, 10)
LEAP_S, LONGEST_PAUSE_S = 10, 3600


def exact(number: float) -> Fraction:
    """Return the fraction that was meant: 5.1 is 51/10 and not the nearest double, which lies beside the grid."""
    return Fraction(number).limit_denominator(100_000)


def shown_frames(
    container: InputContainer,
    stream: VideoStream,
    frames: Iterator[av.VideoFrame],
    *,
    fps: float | None,
    start_s: float,
    stop_s: float | None,
) -> Iterator[Shown]:
    """Yield the frames of a stream that are shown from `start_s` to `stop_s`, as `read_frames` says.

    Args: frames: all that the stream decodes to, the first one included.
    """
    start = exact(start_s)
    stop = None if stop_s is None else exact(stop_s)
    rate = None if fps is None else exact(fps)
    clock = stream.time_base or _CLOCK_ROUNDING_S
    late = min(clock, _CLOCK_ROUNDING_S)
    frame_s = 1 / (stream.average_rate or stream.guessed_rate or rate or 1 / _CLOCK_ROUNDING_S)
    shown = _until_next(deinterlaced(_begun(container, stream, frames, start, clock, frame_s)))
    if rate is None:
        after_start = dropwhile(lambda each: each[1] + late < start, shown)
        yield from takewhile(lambda each: stop is None or each[1] + late < stop, after_start)
        return
    moment = start
    for frame, _, until in shown:
        while moment + late < until:
            if stop is not None and moment >= stop:
                return
            yield frame, moment, moment + 1 / rate
            moment += 1 / rate


def _begun(
    container: InputContainer,
    stream: VideoStream,
    frames: Iterator[av.VideoFrame],
    start: Fraction,
    clock: Fraction,
    frame_s: Fraction,
) -> Iterator[Shown]:
    """Every decoded frame, when it begins and its own end; the first may begin long before `start`, but not after."""
    first = next(frames, None)
    if first is None:
        return
    may_leap = bool(container.format.flags & Flags.ts_discont.value)
    zero = (first.pts or 0) * clock
    if start > 0 and first.pts is not None and not (may_leap and _starts_again(container.name, stream.index)):
        frames = _decoded_from(container, stream, first.pts, first.pts + int(start / clock), clock)
    else:
        frames = chain([first], frames)
    begin = end = None
    for frame in frames:
        if frame.pts is None:
            time = Fraction(0) if begin is None else begin + frame_s
        else:
            time = frame.pts * clock - zero
            if begin is not None and end is not None:
                if not -_STEP_BACK_S <= time - begin <= (LEAP_S if may_leap else LONGEST_PAUSE_S):
                    zero += time - end
                    time = end
                time = max(time, begin + clock)
        begin, end = time, time + (frame.duration * clock if frame.duration else frame_s)
        yield frame, begin, end


@lru_cache(maxsize=64)
def _starts_again(path: str, index: int) -> bool:
    """Return whether the clock of a stream starts again somewhere, so that no time in it can be sought."""
    with av.open(path) as container:
        packets = container.demux(container.streams[index])
        times = [float(packet.dts * packet.time_base) for packet in packets if packet.dts is not None]
    return any(not -_STEP_BACK_S <= after - before <= LEAP_S for before, after in pairwise(times))


def _decoded_from(
    container: InputContainer, stream: VideoStream, first_pts: int, pts: int, clock: Fraction
) -> Iterator[av.VideoFrame]:
    """Decode from a key frame that is shown no later than `pts`: what is shown from there on needs nothing before."""
    beginning = first_pts - int(_SECONDS_BACK[-1] / clock)
    for place in (*(pts - int(back / clock) for back in _SECONDS_BACK), beginning):
        container.seek(place, stream=stream)
        packets = container.demux(stream)
        key = next((packet for packet in packets if packet.is_keyframe), None)
        if key is not None and (place == beginning or (key.pts is not None and key.pts <= pts)):
            for packet in chain([key], packets):
                yield from packet.decode()
            return


def _until_next(begun: Iterable[Shown]) -> Iterator[Shown]:
    """Every frame until the next one takes its place."""
    last = None
    for now in begun:
        if last is not None:
            yield last[0], last[1], now[1]
        last = now
    if last is not None:
        yield last
