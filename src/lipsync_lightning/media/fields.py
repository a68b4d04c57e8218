"""Interlaced frames with all their lines: one frame from each, so that motion shows no comb."""

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, groupby

import av
from av.filter import Graph

Shown = tuple[av.VideoFrame, Fraction, Fraction]  # a frame, from when, until when


def deinterlaced(shown: Iterable[Shown]) -> Iterator[Shown]:
    """Yield the same frames, those that are marked as interlaced without their comb."""
    for _, group in groupby(shown, lambda each: (each[0].width, each[0].height, each[0].format.name)):
        alike = iter(group)
        for first in alike:
            if first[0].interlaced_frame:
                yield from _filtered(first[0], chain([first], alike))
            else:
                yield first


def _filtered(like: av.VideoFrame, shown: Iterable[Shown]) -> Iterator[Shown]:
    """Yield the frames, all like one, through a filter that holds the last one back, to look one ahead."""
    graph = Graph()
    graph.threads = 1
    size = f"video_size={like.width}x{like.height}:pix_fmt={like.format.name}:time_base={like.time_base}"
    source = graph.add("buffer", f"{size}:colorspace={like.colorspace}:range={like.color_range}")
    lines = graph.add("bwdif", "mode=send_frame:deint=interlaced")
    graph.link_nodes(source, lines, graph.add("buffersink")).configure()
    waiting: deque[Shown] = deque()
    for each in shown:
        graph.vpush(each[0])
        waiting.append(each)
        if len(waiting) > 1:
            yield graph.vpull(), *waiting.popleft()[1:]
    graph.vpush(None)
    for _, begin, end in waiting:
        yield graph.vpull(), begin, end
