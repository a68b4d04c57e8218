"""What the colours of a decoded frame mean: red, green and blue as a BT.709 screen of standard range shows them.

HDR and wider gamuts go through a table: the light that BT.2100 (PQ, HLG) or BT.1886 says; highlights rolled off by the
curve of BT.2390, so that faces, which lie below its knee, keep their light; the primaries of BT.709 by way of XYZ
(BT.2087); colours outside them drawn towards the grey of equal light. White is 203 cd/m² (BT.2408).
"""

from functools import lru_cache
from tempfile import NamedTemporaryFile
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
HDR = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG"}
WIDE = {ColorPrimaries.BT2020: "BT.2020", ColorPrimaries.SMPTE431: "DCI-P3", ColorPrimaries.SMPTE432: "Display P3"}
_MATRICES = (1, 4, 5, 6, 7, 9)  # that FFmpeg's scaler knows: `enum AVColorSpace`
_UNTOLD = 2
_SIDE = 33  # of the table
_WHITE, _PEAK = 203.0, 1000.0  # cd/m²; nearly all HDR is made for this peak, and HLG is shown as on such a screen
_XY = {  # of red, green and blue
    ColorPrimaries.BT709: ((0.64, 0.33), (0.3, 0.6), (0.15, 0.06)),
    ColorPrimaries.BT2020: ((0.708, 0.292), (0.17, 0.797), (0.131, 0.046)),
    ColorPrimaries.SMPTE432: ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)),
}
_XY[ColorPrimaries.SMPTE431] = _XY[ColorPrimaries.SMPTE432]  # but for its white, and white is to stay white
_D65 = (0.3127, 0.329)


def rgb_planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """Return red, green and blue (H, W), uint8, of a picture as it is stored, without a shift in colour."""
    _guess(frame)
    if frame.color_trc in HDR or frame.color_primaries in WIDE:
        primaries = frame.color_primaries if frame.color_primaries in WIDE else ColorPrimaries.BT709
        graph = _mapping(get_ident(), frame.color_trc, primaries, frame.width, frame.height)
        graph.vpush(frame.reformat(format="gbrp10le", interpolation=EXACT_COLOURS, threads=1))
        frame = graph.vpull()
    # By way of planes because FFmpeg interleaves exact colours more than twice as slowly.
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
    if frame.format.is_rgb or frame.colorspace in _MATRICES:
        return
    large = frame.width >= 1280 or frame.height > 576
    wide = frame.color_primaries == ColorPrimaries.BT2020
    frame.colorspace = Colorspace.BT2020 if wide else Colorspace.ITU709 if large else Colorspace.ITU601


@lru_cache(maxsize=4)
def _mapping(_thread: int, transfer: int, primaries: int, width: int, height: int) -> Graph:
    """Return the filter that maps such pictures in gbrp10le; one for each thread."""
    graph = Graph()
    graph.threads = 1
    source = graph.add("buffer", f"video_size={width}x{height}:pix_fmt=gbrp10le:time_base=1/25")
    with NamedTemporaryFile("w", suffix=".cube") as file:
        file.write(f"LUT_3D_SIZE {_SIDE}\n")
        np.savetxt(file, _table(transfer, primaries).reshape(-1, 3), "%.5f")
        file.flush()
        look_up = graph.add("lut3d", f"{file.name}:interp=tetrahedral")
    graph.link_nodes(source, look_up, graph.add("buffersink")).configure()
    return graph


def _table(transfer: int, primaries: int) -> np.ndarray:
    """Return BT.709 values (blue, green, red, 3) from 0 to 1 for `_SIDE` values of each colour of a source."""
    blue, green, red = np.meshgrid(*[np.linspace(0, 1, _SIDE)] * 3, indexing="ij")
    to_xyz = _xyz(primaries)
    light = _light(np.stack([red, green, blue], axis=-1), transfer, to_xyz[1])
    grey = (light @ to_xyz[1])[..., None]
    if transfer in HDR:
        scale = _rolled_off(grey) / np.maximum(grey, 1e-6)
        light, grey = light * scale, grey * scale
    light, grey = light @ (np.linalg.inv(_xyz(ColorPrimaries.BT709)) @ to_xyz).T / _WHITE, grey / _WHITE
    colour = light - grey
    room = np.where(colour > 0, 1 - grey, grey) / np.maximum(np.abs(colour), 1e-6)
    inside = grey + colour * np.minimum(room.min(axis=-1, keepdims=True), 1)
    return inside.clip(0, 1) ** (1 / 2.4)


def _xyz(primaries: int) -> np.ndarray:
    """Return the matrix (3, 3) from linear colours to XYZ, with white at D65."""
    columns = [(x / y, 1, (1 - x - y) / y) for x, y in (*_XY[ColorPrimaries(primaries)], _D65)]
    red_green_blue, white = np.array(columns[:3]).T, np.array(columns[3])
    return red_green_blue * np.linalg.solve(red_green_blue, white)


def _light(values: np.ndarray, transfer: int, luminance: np.ndarray) -> np.ndarray:
    """Return what a screen emits, in cd/m²."""
    if transfer == ColorTrc.SMPTE2084:
        return _from_pq(values)
    if transfer == ColorTrc.ARIB_STD_B67:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(values <= 0.5, values**2 / 3, (np.exp((values - c) / a) + b) / 12)
        return _PEAK * scene * np.maximum(scene @ luminance, 1e-9)[..., None] ** 0.2
    return _WHITE * values**2.4


def _rolled_off(light: np.ndarray) -> np.ndarray:
    """Return light of up to `_PEAK` as a screen with peak `_WHITE` shows it: the EETF of BT.2390-10, 5.4.1."""
    top, most = _to_pq(_PEAK), _to_pq(_WHITE) / _to_pq(_PEAK)
    knee = 1.5 * most - 0.5
    value = np.minimum(_to_pq(light) / top, 1)
    t = (value - knee) / (1 - knee)
    curve = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * most
    return _from_pq(np.where(value < knee, value, curve) * top)


_M1, _M2, _C1, _C2, _C3 = 1305 / 8192, 2523 / 32, 107 / 128, 2413 / 128, 2392 / 128


def _to_pq(light: Any) -> Any:
    power = (light / 10_000) ** _M1
    return ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2


def _from_pq(value: Any) -> Any:
    power = value ** (1 / _M2)
    return 10_000 * (np.maximum(power - _C1, 0) / (_C2 - _C3 * power)) ** (1 / _M1)


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
