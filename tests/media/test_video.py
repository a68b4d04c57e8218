from collections.abc import Iterable
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition

from lipsync_lightning.errors import BadMedia, ClipTooShort
from lipsync_lightning.media.audio import read_audio
from lipsync_lightning.media.clips import decode_planes, encode_clip
from lipsync_lightning.media.mux import video_writer
from lipsync_lightning.media.video import probe, read_frames, timed_frames, timed_frames_reversed
from tiny_media import SIDE, number_of, numbered_frames, write_timed, write_video


def numbers_of(frames: Iterable[np.ndarray]) -> list[int]:
    return [number_of(frame) for frame in frames]


def quadrants() -> np.ndarray:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32] = (220, 40, 40)
    picture[:24, 32:] = (40, 220, 40)
    picture[24:, :32] = (40, 40, 220)
    picture[24:, 32:] = (200, 200, 200)
    return picture


def test_frames_come_back_in_order_from_a_path_with_spaces_and_accents(tmp_path):
    path = write_video(tmp_path / "ein schönes vidéo: 日本 %d.mp4", 30, None)
    assert numbers_of(read_frames(path)) == numbers_of(read_frames(path, fps=25)) == list(range(30))


def test_probe_states_size_rate_and_length(tmp_path):
    info = probe(write_video(tmp_path / "a.mp4", 30, None, fps=30000 / 1001))
    assert (info.width, info.height, info.fps, info.has_audio) == (SIDE, SIDE, Fraction(30000, 1001), False)
    assert info.duration_s == pytest.approx(30 * 1001 / 30000)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("source_fps", [24, 30, 30000 / 1001, 50])
def test_resampling_shows_the_latest_frame_that_has_begun(tmp_path, name, source_fps):
    times_ms = [round(1000 * k / source_fps) for k in range(48)]
    shown = numbers_of(read_frames(write_timed(tmp_path / name, times_ms, numbered_frames(48), bf="0"), fps=25))
    clock_ms = 1 if name == "a.mkv" else 1 / 16
    assert shown == [sum(time_ms <= 40 * k + clock_ms for time_ms in times_ms) - 1 for k in range(len(shown))]
    assert len(shown) == pytest.approx(48 * 25 / source_fps, abs=1)


def test_a_variable_rate_that_starts_late_is_held_on_the_grid(tmp_path):
    path = write_timed(tmp_path / "a.mkv", [5000, 5040, 5200, 5210, 5240], numbered_frames(5), bf="0")
    assert numbers_of(read_frames(path, fps=25))[:7] == [0, 1, 1, 1, 1, 2, 4]


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
@pytest.mark.parametrize("hflip", [False, True])
def test_rotation_metadata_is_applied(tmp_path, rotation, hflip):
    path = write_timed(tmp_path / "a.mp4", [0, 40], np.stack([quadrants()] * 2), rotation=rotation, hflip=hflip)
    turned = np.rot90(quadrants(), rotation // 90)
    expected = turned[:, ::-1] if hflip else turned
    frame = next(read_frames(path))
    assert frame.shape == expected.shape == (probe(path).height, probe(path).width, 3)
    height, width = expected.shape[:2]
    centres = (slice(height // 4, None, height // 2), slice(width // 4, None, width // 2))
    assert np.abs(frame[centres].astype(int) - expected[centres]).max() < 12


def test_a_full_range_source_is_read_as_its_tags_say(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.codec_context.width, stream.codec_context.height = 64, 48
        stream.codec_context.color_range = 2
        frame = av.VideoFrame(64, 48, "yuv420p")
        for plane, level in zip(frame.planes, (235, 128, 128), strict=True):
            plane.update(bytes([level]) * plane.buffer_size)
        frame.color_range = 2
        container.mux([*stream.encode(frame), *stream.encode(None)])
    assert next(read_frames(tmp_path / "a.mp4")).mean() == pytest.approx(235, abs=2)


def test_the_file_is_tagged_bt709_and_limited_range(tmp_path):
    with av.open(str(write_video(tmp_path / "a.mp4", 2, None))) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)


def write_plain(path: Path, pictures: np.ndarray, *, tags: dict[str, str] | None = None, **codec: object) -> Path:
    """Write pictures with these settings of the encoder."""
    with av.open(str(path), "w") as container:
        container.metadata.update(tags or {})
        stream = container.add_stream("libx264", rate=25, options=codec.pop("options", {}))
        stream.codec_context.height, stream.codec_context.width = pictures.shape[1:3]
        for name, value in codec.items():
            setattr(stream.codec_context, name, value)
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_a_change_of_size_is_scaled_to_the_first_size_with_its_shape_kept(tmp_path):
    wide = write_plain(tmp_path / "a.ts", np.full((6, 48, 64, 3), 200, np.uint8))
    tall = write_plain(tmp_path / "b.ts", np.full((6, 64, 32, 3), 200, np.uint8))
    path = tmp_path / "both.ts"
    path.write_bytes(wide.read_bytes() + tall.read_bytes())
    frames = [frame.image for frame in timed_frames(path)]
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 12
    assert [frame.shape for frame in read_frames(path, fps=25)] == [(48, 64, 3)] * 12
    shown = (frames[9] > 100).all(axis=-1)
    assert shown[:, 21:43].all()
    assert not shown[:, :19].any()
    assert not shown[:, 45:].any()


@pytest.mark.parametrize(("rotation", "aspect"), [(None, Fraction(4, 3)), (90, Fraction(3, 4)), (180, Fraction(4, 3))])
def test_the_shape_of_pixels_is_told_and_turned_with_the_picture(tmp_path, rotation, aspect):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.codec_context.height, stream.codec_context.width = 64, 64  # so that the size tells of no turn
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        frame = av.VideoFrame.from_ndarray(numbered_frames(1)[0], format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode(None)])
    assert probe(path).pixel_aspect == aspect


def test_title_date_and_timecode_are_told_and_what_describes_the_file_is_not(tmp_path):
    tags = {"title": "Im Wald", "creation_time": "2024-01-02T03:04:05.000000Z", "timecode": "01:00:00:00"}
    assert probe(write_plain(tmp_path / "a.mov", numbered_frames(2), tags=tags)).metadata == tags
    assert probe(write_plain(tmp_path / "a.mkv", numbered_frames(2), tags={"title": "Im Wald"})).metadata == {
        "title": "Im Wald"
    }


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
def test_a_photo_is_a_video_of_one_frame(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), cv2.resize(quadrants(), (128, 96), interpolation=cv2.INTER_NEAREST)[..., ::-1])
    info = probe(path)
    assert (info.is_photo, info.width, info.height, info.told) == (True, 128, 96, ())
    (frame,) = timed_frames(path)
    assert (frame.time_s, frame.duration_s) == (0, Fraction(1, 25))
    np.testing.assert_allclose(frame.image[20, 20], (220, 40, 40), atol=6)
    assert not probe(write_plain(tmp_path / "b.mp4", numbered_frames(1))).is_photo


def test_a_photo_is_turned_as_its_camera_was(tmp_path):
    whole = cv2.imencode(".jpg", quadrants()[..., ::-1])[1].tobytes()
    tags = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # orientation: 6
    exif = b"\xff\xe1" + (len(tags) + 8).to_bytes(2, "big") + b"Exif\0\0" + tags
    path = tmp_path / "a.jpg"
    path.write_bytes(whole[:2] + exif + whole[2:])
    assert (probe(path).width, probe(path).height) == (48, 64)
    np.testing.assert_allclose(next(timed_frames(path)).image[16, 36], (220, 40, 40), atol=12)


def test_transparency_is_told(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((48, 64, 4), 90, np.uint8))
    assert probe(tmp_path / "a.png").told == ("transparency is lost",)


def test_interlaced_frames_lose_their_comb_and_keep_their_times(tmp_path):
    fields = np.full((12, 96, 128, 3), 40, np.uint8)
    for number, field in enumerate(fields):
        field[:, 8 + 6 * number : 28 + 6 * number] = 200
    woven = fields[::2].copy()
    woven[:, 1::2] = fields[1::2, 1::2]
    path = write_plain(tmp_path / "a.mp4", woven, options={"x264-params": "tff=1", "crf": "5"})
    assert probe(path).told == ("interlaced: deinterlaced",)
    frames = list(timed_frames(path))
    assert [frame.time_s for frame in frames] == [Fraction(k, 25) for k in range(6)]
    for frame, combed in zip(frames, woven, strict=True):
        assert np.abs(np.diff(combed[..., 0].astype(int), axis=0)).mean() > 5
        assert np.abs(np.diff(frame.image[10:-10, :, 0].astype(int), axis=0)).mean() < 1
    assert len(list(read_frames(path, fps=50))) == 12


def test_the_picture_that_players_show_is_read_and_not_the_first_one(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=25) for _ in range(2)]
        for stream, disposition in zip(streams, (Disposition(0), Disposition.default), strict=True):
            stream.codec_context.width = stream.codec_context.height = SIDE
            stream.disposition = disposition
        for stream, picture in zip(streams, numbered_frames(9)[[0, 8]], strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux([*stream.encode(frame), *stream.encode(None)])
    assert numbers_of(read_frames(path)) == [8]


@pytest.mark.parametrize("start", [0, 7])
def test_reversed_frames_are_all_of_them_each_for_as_long_as_before(tmp_path, start):
    times_ms = [0, 40, 80, 120, 700, 740, 780, 2800, 2840, *range(2880, 4400, 40)]
    path = write_timed(tmp_path / "a.mkv", times_ms, numbered_frames(len(times_ms)))
    forth = list(timed_frames(path))[start:]
    end = forth[-1].time_s + forth[-1].duration_s
    back = list(timed_frames_reversed(path, start_s=float(forth[0].time_s), stop_s=float(end)))
    assert [number_of(frame.image) for frame in back] == [number_of(frame.image) for frame in reversed(forth)]
    assert [frame.duration_s for frame in back] == [frame.duration_s for frame in reversed(forth)]
    assert [frame.time_s for frame in back] == [end - frame.time_s - frame.duration_s for frame in reversed(forth)]


@pytest.mark.parametrize("content", [None, b"", b"this is no video\n" * 50])
@pytest.mark.parametrize("read", [probe, read_audio, lambda path: next(read_frames(path))])
def test_missing_empty_and_text_files_are_bad_media_with_the_name(tmp_path, content, read):
    path = tmp_path / "a b.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadMedia, match=r"a b\.mp4"):
        read(path)


def test_a_truncated_file_yields_its_whole_frames_and_then_says_how_many(tmp_path):
    noise = np.random.default_rng(0)
    path = tmp_path / "a.mp4"
    with video_writer(path, width=64, height=48, fps=25) as write:
        for _ in range(40):
            write(noise.integers(0, 255, (48, 64, 3), np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadMedia, match="truncated"):
        probe(path)
    frames: list[np.ndarray] = []
    with pytest.raises(BadMedia, match=r"breaks off after \d+ frames") as caught:
        frames.extend(read_frames(path))
    assert 10 < len(frames) < 35
    assert f"after {len(frames)} frames" in str(caught.value)


def moving_clip(num_frames: int = 40) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    picture = np.kron(noise, np.ones((4, 4, 1), np.uint8))
    return encode_clip([np.roll(picture, 2 * k, axis=1) for k in range(num_frames)], fps=25)


def test_every_window_equals_sequential_decoding():
    clip = moving_clip()
    (whole,) = decode_planes(clip, [0], 40)
    assert not np.array_equal(whole[0], whole[1])
    for start in range(36):
        np.testing.assert_array_equal(decode_planes(clip, [start], 5)[0], whole[start : start + 5])


def test_a_clip_has_a_key_frame_every_twelve_and_no_b_frames():
    clip = moving_clip()
    with av.open(BytesIO(clip), "r") as container:
        frames = list(container.decode(video=0))
    assert len(frames) == 40
    assert [index for index, frame in enumerate(frames) if frame.key_frame] == [0, 12, 24, 36]
    assert {frame.pict_type for frame in frames} == {1, 2}


@pytest.mark.parametrize(("first_frame", "num_frames"), [(36, 5), (-1, 5), (40, 1), (0, 41)])
def test_a_window_that_leaves_the_clip_is_refused(first_frame, num_frames):
    with pytest.raises(ClipTooShort, match="of a clip of 40"):
        decode_planes(moving_clip(), [first_frame], num_frames)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (36, 64), (34, 32), (33, 31)])
def test_lower_halves_are_those_of_whole_frames_to_the_bit_wherever_their_edge_lies(height: int, width: int):
    """Also between two rows that share a row of colours, and in a picture of odd size."""
    noise = np.random.default_rng(0).integers(0, 256, (40, height, width, 3), np.uint8)
    clip = encode_clip(noise, fps=25)
    starts = [30, 3, 10, 8]  # apart, touching, overlapping, in any order
    lower = decode_planes(clip, starts, 5, top=0.5)
    for window, start in zip(lower, starts, strict=True):
        (whole,) = decode_planes(clip, [start], 5)
        assert np.array_equal(window, whole[:, :, height // 2 :])
