from pathlib import Path

import av
import numpy as np
import pytest

from lipsync_lightning.errors import BadMedia, MissingAudio
from lipsync_lightning.media.audio import read_audio
from lipsync_lightning.media.mux import video_writer
from lipsync_lightning.media.video import probe, read_frames
from tiny_media import write_compressed, write_wav


def write_muxed(path: Path, sound: Path | None, num_frames: int = 20) -> Path:
    with video_writer(path, width=32, height=32, fps=25, sound=sound) as write:
        for number in range(num_frames):
            write(np.full((32, 32, 3), 3 * number % 256, np.uint8))
    return path


def noise(seconds: float, sample_rate_hz: int, num_channels: int = 2) -> np.ndarray:
    """(N, channels) 16-bit noise with one full-scale click at 0.3 s."""
    size = (round(seconds * sample_rate_hz), num_channels)
    levels = np.random.default_rng(0).integers(-2000, 2000, size).astype(np.int16)
    levels[round(0.3 * sample_rate_hz) :][:24] = 32767
    return levels


def sound_of(path: Path) -> tuple[tuple[str, int], list[bytes], np.ndarray]:
    """Codec and sample rate, compressed packets and decoded samples (N, channels) of a file's sound."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        context = stream.codec_context
        num_channels, kind = context.channels, (context.codec.canonical_name, context.sample_rate)
        packets = [bytes(packet) for packet in container.demux(stream) if packet.size]
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
    planar = frames[0].shape[0] == num_channels and num_channels > 1
    return kind, packets, np.concatenate([f.T if planar else f.reshape(-1, num_channels) for f in frames])


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.m4a", "aac"),
        ("a.mp3", "libmp3lame"),
        ("b.m4a", "alac"),
        ("a.flac", "flac"),
        ("a.mp4", "ac3"),
        ("a.ogg", "libopus"),
    ],
)
def test_compressed_sound_is_copied_packet_by_packet_and_stays_in_place(tmp_path, name, codec):
    sound = write_compressed(tmp_path / name, codec, noise(0.8, 48000))
    muxed = write_muxed(tmp_path / "out.mp4", sound)
    assert sound_of(muxed)[:2] == sound_of(sound)[:2]
    waveform, original = read_audio(muxed), read_audio(sound)
    assert int(np.argmax(waveform)) == pytest.approx(int(np.argmax(original)), abs=1)
    inner = slice(0, min(len(waveform), len(original)) - 50)
    np.testing.assert_allclose(waveform[inner], original[inner], atol=1e-3)


@pytest.mark.parametrize(("sample_rate_hz", "num_channels"), [(16000, 1), (44100, 2), (96000, 2)])
def test_wav_samples_survive_to_the_bit(tmp_path, sample_rate_hz, num_channels):
    levels = noise(0.8, sample_rate_hz, num_channels)
    sound = write_wav(tmp_path / "träger ton.wav", levels, sample_rate_hz)
    kind, _, samples = sound_of(write_muxed(tmp_path / "out put.mp4", sound))
    assert kind == ("flac", sample_rate_hz)
    np.testing.assert_array_equal(samples, levels)


@pytest.mark.parametrize("seconds", [0.4, 3.0])
@pytest.mark.parametrize("name", ["a.wav", "a.m4a"])
def test_picture_and_sound_are_both_kept_whole_whichever_is_longer(tmp_path, name, seconds):
    sound = tmp_path / name
    if name == "a.wav":
        write_wav(sound, noise(seconds, 16000), 16000)
    else:
        write_compressed(sound, "aac", noise(seconds, 48000))
    muxed = write_muxed(tmp_path / "out.mp4", sound)
    assert len(list(read_frames(muxed))) == 20
    assert len(sound_of(muxed)[2]) == len(sound_of(sound)[2])
    assert probe(muxed).has_audio


@pytest.mark.parametrize("codec", ["pcm_s16le", "aac"])
def test_sound_starts_with_the_picture_of_the_file_it_comes_from(tmp_path, codec):
    late = write_compressed(tmp_path / "late.mkv", codec, noise(0.8, 48000), video_at_s=0.2)
    waveform = read_audio(write_muxed(tmp_path / "out.mp4", late))
    assert int(np.argmax(waveform)) == pytest.approx((0.3 - 0.2) * 16000, abs=20)
    assert int(np.argmax(waveform)) == pytest.approx(int(np.argmax(read_audio(late))), abs=20)


def test_a_file_without_sound_is_missing_audio_and_leaves_nothing(tmp_path):
    silent = write_muxed(tmp_path / "silent.mp4", None)
    assert not probe(silent).has_audio
    with pytest.raises(MissingAudio, match="silent"):
        write_muxed(tmp_path / "out.mp4", silent)
    assert [path.name for path in tmp_path.iterdir()] == ["silent.mp4"]


def test_unreadable_sound_is_bad_media_and_keeps_the_former_file(tmp_path):
    out = write_muxed(tmp_path / "out.mp4", None)
    former = out.read_bytes()
    (tmp_path / "a.wav").write_bytes(b"not a sound" * 50)
    with pytest.raises(BadMedia, match=r"a\.wav"):
        write_muxed(out, tmp_path / "a.wav")
    assert out.read_bytes() == former
    assert not list(tmp_path.glob("*.part"))
