import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorTrc

from lipsync_lightning.media.video import probe, read_frames, to_rgb

COLOURS = [(128, 128, 128), (220, 170, 140), (90, 50, 35), (160, 60, 60)]  # a grey, two skins, a red
TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])  # BT.2087-0
LUMA_2020 = (0.2627, 0.6780, 0.0593)
LUMA = {1: (0.2126, 0.7152, 0.0722), 5: (0.299, 0.587, 0.114), 9: LUMA_2020}
BT709, BT601, BT2020, UNTOLD = 1, 5, 9, 2


def flat(values: np.ndarray, matrix: int, *, width: int = 64, height: int = 48, full: bool = False) -> av.VideoFrame:
    """A 10-bit picture of one colour, whose red, green and blue are from 0 to 1."""
    luma = float(np.dot(LUMA[matrix], values))
    blue, red = (
        (values[2] - luma) / (2 - 2 * LUMA[matrix][2]),
        (values[0] - luma) / (2 - 2 * LUMA[matrix][0]),
    )
    low, high, colour = (0, 1023, 1023) if full else (64, 876, 896)
    frame = av.VideoFrame(width, height, "yuv420p10le")
    for plane, level in zip(frame.planes, (low + high * luma, 512 + colour * blue, 512 + colour * red), strict=True):
        plane.update(np.full(plane.buffer_size // 2, round(level), "<u2").tobytes())
    frame.colorspace, frame.color_range = matrix, 2 if full else 1
    return frame


def pq(nits: np.ndarray) -> np.ndarray:
    power = (nits / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def hlg(nits: np.ndarray) -> np.ndarray:
    scene = nits / 1000 * (np.dot(LUMA_2020, nits) / 1000) ** (1 / 1.2 - 1)
    return np.where(
        scene <= 1 / 12,
        np.sqrt(3 * scene),
        0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073,
    )


def in_bt2020(rgb: tuple[int, int, int]) -> np.ndarray:
    return TO_BT2020 @ (np.array(rgb) / 255) ** 2.4


def seen(frame: av.VideoFrame) -> np.ndarray:
    picture = to_rgb(frame)
    assert np.abs(picture.astype(int) - picture[0, 0]).max() <= 1  # every line and column alike
    return picture[10, 10]


@pytest.mark.parametrize(
    ("width", "height", "matrix"),
    [(640, 480, BT601), (720, 576, BT601), (1280, 544, BT709), (720, 1280, BT709), (1920, 1080, BT709)],
)
@pytest.mark.parametrize("told", [UNTOLD, 8], ids=["none", "YCgCo"])
def test_a_missing_or_senseless_matrix_is_guessed_by_size_as_players_do(width, height, matrix, told):
    frame = flat(np.array([214, 45, 27]) / 255, matrix, width=width, height=height)
    frame.colorspace = told
    np.testing.assert_allclose(seen(frame), [214, 45, 27], atol=2)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [BT601, BT709, BT2020])
def test_matrix_and_range_are_those_the_file_tells(matrix, full):
    np.testing.assert_allclose(
        seen(flat(np.array([200, 60, 90]) / 255, matrix, width=1280, full=full)), [200, 60, 90], atol=2
    )


@pytest.mark.parametrize("rgb", COLOURS)
@pytest.mark.parametrize("kind", ["HLG", "PQ", "standard range"])
def test_faces_in_bt2020_come_back_as_they_were_in_bt709(kind, rgb):
    light = in_bt2020(rgb)
    values = {"HLG": hlg(203 * light), "PQ": pq(203 * light), "standard range": light ** (1 / 2.4)}[kind]
    frame = flat(values, BT2020)
    frame.color_trc = {"HLG": ColorTrc.ARIB_STD_B67, "PQ": ColorTrc.SMPTE2084}.get(kind, ColorTrc.BT2020_10)
    # A phone may leave out the primaries of HDR, which can be none but these.
    frame.color_primaries = ColorPrimaries.BT2020 if kind == "standard range" else ColorPrimaries.UNSPECIFIED
    np.testing.assert_allclose(seen(frame), rgb, atol=4)


@pytest.mark.parametrize("transfer", [ColorTrc.ARIB_STD_B67, ColorTrc.SMPTE2084])
def test_highlights_rise_to_white_and_stay_grey(transfer):
    levels: list[int] = []
    for nits in (0.01, 50, 203, 400, 1000):
        values = (hlg if transfer == ColorTrc.ARIB_STD_B67 else pq)(np.full(3, float(nits)))
        frame = flat(values, BT2020)
        frame.color_trc, frame.color_primaries = transfer, ColorPrimaries.BT2020
        assert np.ptp(seen(frame).astype(int)) <= 2
        levels.append(int(seen(frame)[1]))
    assert levels == sorted(set(levels))
    assert levels[0] <= 4
    assert levels[1] == pytest.approx(255 * (50 / 203) ** (1 / 2.4), abs=2)
    assert levels[2] > 215
    assert levels[-1] == 255


def test_a_colour_that_bt709_lacks_stays_green_and_as_bright():
    green = np.array([0.1, 0.6, 0.1])
    frame = flat(green, BT2020)
    frame.color_trc, frame.color_primaries = ColorTrc.BT2020_10, ColorPrimaries.BT2020
    rgb = seen(frame).astype(float)
    assert rgb[1] > 1.5 * max(rgb[0], rgb[2])
    assert np.dot(LUMA[BT709], (rgb / 255) ** 2.4) == pytest.approx(np.dot(LUMA_2020, green**2.4), rel=0.05)


def test_display_p3_is_converted_and_white_stays_white():
    frame = flat(np.ones(3), BT709)
    frame.color_primaries = ColorPrimaries.SMPTE432
    np.testing.assert_allclose(seen(frame), 255, atol=1)
    frame = flat(np.array([0.9175, 0.2003, 0.1386]), BT709)  # the red of BT.709
    frame.color_primaries = ColorPrimaries.SMPTE432
    np.testing.assert_allclose(seen(frame), [255, 0, 0], atol=30)


@pytest.mark.parametrize(
    ("pixels", "told"),
    [
        ("yuv420p", ()),
        ("yuv420p10le", ("HDR (HLG) is tone-mapped to BT.709", "10 bits become 8")),
        ("yuv422p", ("4:2:2 becomes 4:2:0",)),
        ("yuv444p", ("4:4:4 becomes 4:2:0",)),
        ("gbrp", ("RGB becomes 4:2:0",)),
    ],
)
def test_what_the_result_cannot_keep_is_told(tmp_path, pixels, told):
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb" if pixels == "gbrp" else "libx264", rate=25)
        stream.codec_context.width, stream.codec_context.height = 64, 48
        stream.codec_context.pix_fmt = "rgb24" if pixels == "gbrp" else pixels
        if "10" in pixels:
            stream.codec_context.color_trc, stream.codec_context.colorspace = ColorTrc.ARIB_STD_B67, BT2020
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 100, np.uint8), format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode(None)])
    assert probe(path).told == told
    assert len(list(read_frames(path))) == 1
