import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.media.audio import decode_flac, encode_flac, read_audio

CLICK_S = 0.5


def tone(seconds: float, sample_rate_hz: int, num_channels: int = 1) -> np.ndarray:
    samples = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * sample_rate_hz)) / sample_rate_hz)
    return np.tile(samples.astype(np.float32), (num_channels, 1))


def click(seconds: float = 1.0, sample_rate_hz: int = 48000) -> np.ndarray:
    waveform = np.zeros((2, round(seconds * sample_rate_hz)), np.float32)
    waveform[:, round(CLICK_S * sample_rate_hz) :][:, :24] = 0.9
    return waveform


def write_wav(path: Path, waveform: np.ndarray, sample_rate_hz: int) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(waveform.shape[0])
        file.setsampwidth(2)
        file.setframerate(sample_rate_hz)
        file.writeframes(np.round(waveform.T * 32767).astype("<i2").tobytes())
    return path


def write_media(
    path: Path, codec: str, waveform: np.ndarray, *, sound_at_s: float = 0, video_at_s: float | None = None
) -> Path:
    """A file of 48 kHz stereo sound and, if `video_at_s` is given, 25 grey frames; the two may start apart."""
    with av.open(str(path), "w") as container:
        sound: Any = container.add_stream(codec, rate=48000)
        sound.codec_context.layout = "stereo"
        sound.codec_context.time_base = Fraction(1, 48000)
        if video_at_s is not None:
            write_picture(container, round(video_at_s * 25))
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(waveform), format="fltp", layout="stereo")
        frame.sample_rate = 48000
        size = sound.codec_context.frame_size or 1024
        resampler = av.AudioResampler(format=sound.codec_context.format, layout="stereo", rate=48000, frame_size=size)
        first_sample = round(sound_at_s * 48000)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            part.pts, part.time_base = first_sample, Fraction(1, 48000)
            first_sample += part.samples
            container.mux(sound.encode(part))
        container.mux(sound.encode(None))
    return path


def write_picture(container, first_frame: int) -> None:
    stream = container.add_stream("libx264", rate=25)
    stream.codec_context.width = stream.codec_context.height = 32
    for number in range(25):
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        frame.pts, frame.time_base = first_frame + number, Fraction(1, 25)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def loudest_s(waveform: np.ndarray) -> float:
    return int(np.argmax(np.abs(waveform))) / 16000


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "aac"), ("a.mkv", "aac"), ("a.mp3", "libmp3lame"), ("a.ogg", "libopus")]
)
def test_a_click_sits_where_it_was_made_in_spite_of_encoder_delay(tmp_path, name, codec):
    assert loudest_s(read_audio(write_media(tmp_path / name, codec, click()))) == pytest.approx(CLICK_S, abs=1e-3)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize(("sound_at_s", "video_at_s"), [(0, 0), (0.2, 0), (0, 0.2), (0.4, 0.2)])
def test_time_zero_is_the_first_video_frame(tmp_path, name, sound_at_s, video_at_s):
    waveform = read_audio(write_media(tmp_path / name, "aac", click(), sound_at_s=sound_at_s, video_at_s=video_at_s))
    assert loudest_s(waveform) == pytest.approx(CLICK_S + sound_at_s - video_at_s, abs=2e-3)
    assert len(waveform) == pytest.approx(16000 * (1 + sound_at_s - video_at_s), abs=400)


def test_a_hole_in_the_sound_becomes_silence(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000)
        stream.codec_context.layout = "mono"
        stream.codec_context.time_base = Fraction(1, 16000)
        for start in (0, 8000):
            frame = av.AudioFrame.from_ndarray(np.full((1, 4000), 9000, np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
            container.mux(stream.encode(frame))
    waveform = read_audio(path)
    assert len(waveform) == 12000
    assert not waveform[4100:7900].any()
    assert waveform[[100, 3900, 8100, 11900]].all()


@pytest.mark.parametrize(("sample_rate_hz", "num_channels"), [(16000, 1), (44100, 2)])
def test_loudness_and_length_are_kept(tmp_path, sample_rate_hz, num_channels):
    waveform = read_audio(write_wav(tmp_path / "a b é.wav", tone(1, sample_rate_hz, num_channels), sample_rate_hz))
    assert waveform.dtype == np.float32
    assert len(waveform) == 16000
    np.testing.assert_allclose(waveform[200:-200], tone(1, 16000)[0, 200:-200], atol=2e-3)


@pytest.mark.parametrize("content", [None, b"", b"no sound at all\n" * 50])
def test_missing_empty_and_text_files_are_bad_media(tmp_path, content):
    if content is not None:
        (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(BadMedia, match=r"a\.wav"):
        read_audio(tmp_path / "a.wav")


def test_a_truncated_file_is_bad_media(tmp_path):
    path = write_media(tmp_path / "a.mp4", "aac", click())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadMedia, match=r"a\.mp4"):
        read_audio(path)


@pytest.mark.parametrize("num_samples", [1, 4095, 16001])
def test_flac_is_exact_to_sixteen_bits_and_in_length(num_samples):
    levels = np.random.default_rng(0).integers(-32768, 32768, num_samples)
    waveform = (levels / 32768).astype(np.float32)
    np.testing.assert_array_equal(decode_flac(encode_flac(waveform, 16000)), waveform)
