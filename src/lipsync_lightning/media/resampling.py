"""Which decoded frame is on screen when: a part of a video, found by seeking, and a constant frame rate.

Times are exact fractions of a second, counted from the frame that the video shows first.
"""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, dropwhile, takewhile

import av
from av.container import InputContainer
from av.video.stream import VideoStream

# Matroska and FLV store times in whole milliseconds, so a frame can seem to come this much late.
_CLOCK_ROUNDING_S = Fraction(1, 1000)
# How much before the wanted time to seek, one after the other: files without an index, and indices of decoding times,
# can lead to a key frame that is shown too late, or to none.
_SECONDS_BACK = (0, 2, 8, 32)

_Begun = tuple[Fraction, av.VideoFrame]


def exact(number: float) -> Fraction:
    """Return the fraction that was meant: 5.1 is 51/10 and not the nearest double, which lies beside the grid."""
    return Fraction(number).limit_denominator(100_000)


def shown_frames(
    container: InputContainer, stream: VideoStream, *, fps: float | None, start_s: float, stop_s: float | None
) -> Iterator[av.VideoFrame]:
    """Yield the frames of a freshly opened stream that are shown from `start_s` to `stop_s`, as `read_frames` says."""
    start = exact(start_s)
    stop = None if stop_s is None else exact(stop_s)
    rate = None if fps is None else exact(fps)
    clock = stream.time_base or _CLOCK_ROUNDING_S
    late = min(clock, _CLOCK_ROUNDING_S)
    frame_s = 1 / (stream.average_rate or stream.guessed_rate or rate or 1 / _CLOCK_ROUNDING_S)
    begun = _begun(container, stream, start, clock, frame_s)
    if rate is None:
        after_start = dropwhile(lambda frame: frame[0] + late < start, begun)
        yield from (frame for _, frame in takewhile(lambda frame: stop is None or frame[0] + late < stop, after_start))
        return
    moment = start
    for frame, until in _until_next(begun, clock, frame_s):
        while moment + late < until:
            if stop is not None and moment >= stop:
                return
            yield frame
            moment += 1 / rate


def _begun(
    container: InputContainer, stream: VideoStream, start: Fraction, clock: Fraction, frame_s: Fraction
) -> Iterator[_Begun]:
    """Every decoded frame and when it begins; the first ones may begin long before `start`, but not after it."""
    frames = container.decode(stream)
    first = next(frames, None)
    if first is None:
        return
    frames, zero = chain([first], frames), (first.pts or 0) * clock
    if start > 0 and first.pts is not None:
        frames = _decoded_from(container, stream, first.pts, first.pts + int(start / clock), clock)
    begin = -frame_s
    for frame in frames:
        begin = begin + frame_s if frame.pts is None else frame.pts * clock - zero
        yield begin, frame


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


def _until_next(
    begun: Iterable[_Begun], clock: Fraction, frame_s: Fraction
) -> Iterator[tuple[av.VideoFrame, Fraction]]:
    """Every frame and when the next one takes its place."""
    begin, last = Fraction(0), None
    for begin, frame in begun:
        if last is not None:
            yield last, begin
        last = frame
    if last is not None:
        yield last, begin + (last.duration * clock if last.duration else frame_s)
