"""What the colours of a decoded frame mean: red, green and blue as a BT.709 screen of standard range shows them.

HDR and wider gamuts are mapped by FFmpeg's scaler (`libswscale/cms.c`): the transfer functions of BT.2100, a tone curve
after SMPTE ST 2094-10 that takes the brightness of the mastering screen from the file, where it is told, and colours
that the smaller gamut lacks drawn in along lines of equal hue. mpv shows such a file in much the same way.
"""

from functools import lru_cache
from threading import get_ident
from typing import Any

import av
import numpy as np
from av.filter import Graph
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc, Interpolation

# FFmpeg's default conversion darkens a picture by about one level in 255; with these the mean error is below 0.03.
EXACT_COLOURS = (
    Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
_EXACT = "flags=bilinear+accurate_rnd+full_chroma_int+full_chroma_inp"
_MATRICES = (0, 1, 4, 5, 6, 7, 9)  # RGB and those that FFmpeg's scaler knows: `enum AVColorSpace`
_UNTOLD = 2
HDR = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG"}
WIDE = {ColorPrimaries.BT2020: "BT.2020", ColorPrimaries.SMPTE431: "DCI-P3", ColorPrimaries.SMPTE432: "Display P3"}


def rgb_planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """Return red, green and blue (H, W), uint8, of a picture as it is stored, without a shift in colour."""
    _guess(frame)
    # By way of planes, because FFmpeg interleaves exact colours more than twice as slowly.
    if frame.color_trc in HDR or frame.color_primaries in WIDE:
        stored = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        graph = _to_bt709(get_ident(), frame.color_trc in HDR, *stored)
        graph.vpush(frame)
        frame = graph.vpull()
    planes: Any = frame.reformat(format="gbrp", interpolation=EXACT_COLOURS, threads=1).planes
    green, blue, red = (
        np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width] for plane in planes
    )
    return [red, green, blue]


def _guess(frame: av.VideoFrame) -> None:
    """Fill in what the file does not tell, as players do.

    The matrix is guessed by size as in mpv (`pl_color_system_guess_ycbcr` of libplacebo). Some phones tell a wrong one,
    such as YCgCo, which no camera writes.
    """
    if frame.color_trc in HDR and frame.color_primaries == _UNTOLD:
        frame.color_primaries = ColorPrimaries.BT2020
    if frame.colorspace not in _MATRICES and not frame.format.is_rgb:
        large = frame.width >= 1280 or frame.height > 576
        wide = frame.color_primaries == ColorPrimaries.BT2020
        frame.colorspace = Colorspace.BT2020 if wide else Colorspace.ITU709 if large else Colorspace.ITU601


@lru_cache(maxsize=4)
def _to_bt709(_thread: int, hdr: bool, width: int, height: int, pixels: str, matrix: int, levels: int) -> Graph:
    """Return the filter that maps such frames. Its table takes seconds to make, so it is kept, one for each thread."""
    graph = Graph()
    graph.threads = 1
    source = f"video_size={width}x{height}:pix_fmt={pixels}:time_base=1/25:colorspace={matrix}:range={levels}"
    told = "out_transfer=bt709:intent=perceptual" if hdr else "intent=relative_colorimetric"
    scale = graph.add("scale", f"out_primaries=bt709:{told}:out_range=pc:{_EXACT}")
    steps = (graph.add("buffer", source), scale, graph.add("format", "gbrp"), graph.add("buffersink"))
    graph.link_nodes(*steps).configure()
    return graph


def told_conversions(frame: av.VideoFrame, *, is_photo: bool) -> list[str]:
    """Return a sentence for each property of the colours that 8-bit 4:2:0 BT.709 does not have."""
    pixels = frame.format
    told: list[str] = []
    if frame.color_trc in HDR:
        told.append(f"HDR ({HDR[ColorTrc(frame.color_trc)]}) is tone-mapped to BT.709")
    elif frame.color_primaries in WIDE:
        told.append(f"{WIDE[ColorPrimaries(frame.color_primaries)]} colours become BT.709")
    bits = max(component.bits for component in pixels.components)
    if bits > 8:
        told.append(f"{bits} bits become 8")
    layout = {(8, 8): "4:4:4", (4, 8): "4:2:2", (2, 8): "4:1:1", (8, 4): "4:4:0"}
    sampling = layout.get((pixels.chroma_width(8), pixels.chroma_height(8)))
    if not is_photo and len(pixels.components) > 2 and sampling is not None:
        told.append(f"{'RGB' if pixels.is_rgb else sampling} becomes 4:2:0")
    return told
