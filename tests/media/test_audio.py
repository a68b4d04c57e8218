from fractions import Fraction

import av
import numpy as np
import pytest

from lipsync_lightning.errors import BadConfig, BadMedia
from lipsync_lightning.media.audio import decode_flac, encode_flac, read_audio
from tiny_media import write_compressed, write_float_wav, write_tracks, write_wav

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


def test_a_clock_that_steps_back_goes_on_where_it_ended_and_a_leap_is_none(tmp_path):
    parts = []
    for at_s in (0, 0, 3600):
        write_compressed(tmp_path / "one.ts", "mp2", click(), sound_at_s=at_s, video_at_s=at_s)
        parts.append((tmp_path / "one.ts").read_bytes())
    (tmp_path / "joined.ts").write_bytes(b"".join(parts))
    waveform = read_audio(tmp_path / "joined.ts")
    assert len(waveform) == pytest.approx(3 * 16000, abs=2500)
    clicks = [int(np.argmax(part)) for part in np.array_split(waveform, 3)]
    assert clicks == pytest.approx([8000] * 3, abs=1500)
    assert all(part.max() > 0.3 for part in np.array_split(waveform, 3))


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf, 1e30])
def test_samples_that_are_no_numbers_are_silence_and_it_is_said(tmp_path, broken):
    samples = np.full(16000, 0.25, np.float32)
    samples[8000:8005] = broken
    with pytest.warns(UserWarning, match=r"a\.wav: some of its samples are no finite numbers; they are made silent"):
        waveform = read_audio(write_float_wav(tmp_path / "a.wav", samples))
    assert not waveform[8000:8005].any()
    np.testing.assert_allclose(np.delete(waveform, slice(8000, 8005)), 0.25)


@pytest.mark.parametrize("num_channels", [9, 16])
def test_more_channels_than_ffmpeg_can_mix_are_averaged(tmp_path, num_channels):
    levels = tone(16000, num_channels)
    levels[:, 1:] = 0
    waveform = read_audio(write_wav(tmp_path / "a.wav", levels, 16000))
    np.testing.assert_allclose(waveform, levels[:, 0] / num_channels / 32768, atol=1e-4)


def test_the_default_track_speaks_or_the_one_that_is_asked_for(tmp_path):
    film = write_tracks(tmp_path / "film.mkv", [("eng", 0.25, False), ("ger", 0.5, True), ("ger", 0.75, False)])
    asked = {None: 0.5, 0: 0.25, 1: 0.5, 2: 0.75, "2": 0.75, "eng": 0.25, "ger": 0.5}
    assert {track: read_audio(film, audio_track=track).max() for track in asked} == pytest.approx(asked, abs=1e-3)
    for wrong in (3, "fre", -1):
        with pytest.raises(BadConfig, match=rf"film\.mkv .* audio_track={wrong}; there are 0 \(eng\), 1 \(ger\), 2 "):
            read_audio(film, audio_track=wrong)
    alike = write_tracks(tmp_path / "none.mkv", [("eng", 0.25, False), ("ger", 0.5, False)])
    assert read_audio(alike).max() == pytest.approx(0.25, abs=1e-3)


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
