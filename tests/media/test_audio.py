from fractions import Fraction

import av
import numpy as np
import pytest

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.media.audio import decode_flac, encode_flac, read_audio
from tiny_media import write_compressed, write_wav

CLICK_S = 0.5


def tone(sample_rate_hz: int, num_channels: int = 1) -> np.ndarray:
    """One second, (N, channels), 16-bit levels."""
    samples = 16384 * np.sin(2 * np.pi * 440 * np.arange(sample_rate_hz) / sample_rate_hz)
    return np.tile(samples.round().astype(np.int16)[:, None], num_channels)


def click() -> np.ndarray:
    levels = np.zeros((48000, 2), np.int16)
    levels[round(CLICK_S * 48000) :][:24] = 30000
    return levels


def loudest_s(waveform: np.ndarray) -> float:
    return int(np.argmax(np.abs(waveform))) / 16000


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "aac"), ("a.mkv", "aac"), ("a.mp3", "libmp3lame"), ("a.ogg", "libopus")]
)
def test_a_click_sits_where_it_was_made_in_spite_of_encoder_delay(tmp_path, name, codec):
    assert loudest_s(read_audio(write_compressed(tmp_path / name, codec, click()))) == pytest.approx(CLICK_S, abs=1e-3)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize(("sound_at_s", "video_at_s"), [(0, 0), (0.2, 0), (0, 0.2), (0.4, 0.2)])
def test_time_zero_is_the_first_video_frame(tmp_path, name, sound_at_s, video_at_s):
    path = write_compressed(tmp_path / name, "aac", click(), sound_at_s=sound_at_s, video_at_s=video_at_s)
    waveform = read_audio(path)
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
    waveform = read_audio(write_wav(tmp_path / "a b é.wav", tone(sample_rate_hz, num_channels), sample_rate_hz))
    assert waveform.dtype == np.float32
    assert len(waveform) == 16000
    np.testing.assert_allclose(waveform[200:-200], tone(16000)[200:-200, 0] / 32768, atol=2e-3)


def test_a_truncated_file_is_bad_media(tmp_path):
    path = write_compressed(tmp_path / "a.mp4", "aac", click())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadMedia, match=r"a\.mp4"):
        read_audio(path)


@pytest.mark.parametrize("num_samples", [1, 4095, 16001])
def test_flac_is_exact_to_sixteen_bits_and_in_length(num_samples):
    levels = np.random.default_rng(0).integers(-32768, 32768, num_samples)
    waveform = (levels / 32768).astype(np.float32)
    np.testing.assert_array_equal(decode_flac(encode_flac(waveform, 16000)), waveform)
