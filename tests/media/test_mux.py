import os
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from lipsync_lightning.errors import BadConfig, BadMedia, MissingAudio
from lipsync_lightning.media.audio import read_audio
from lipsync_lightning.media.mux import join, video_writer
from lipsync_lightning.media.video import probe, read_frames
from tiny_media import level, number_of, write_compressed, write_float_wav, write_tracks, write_wav


def write_muxed(path: Path, sound: Path | None, num_frames: int = 20, **options: Any) -> Path:
    with video_writer(path, width=32, height=32, fps=25, sound=sound, **options) as write:
        for number in range(num_frames):
            write(np.full((32, 32, 3), 3 * number % 256, np.uint8))
    return path


def write_joined(path: Path, times_s: Sequence[Fraction], num_pieces: int = 2, **options: Any) -> Path:
    """Join pieces whose frames tell their number by their brightness, the last one as long as all the others."""
    aspect = options.pop("pixel_aspect", Fraction(1))
    numbers, pieces = np.array_split(np.arange(len(times_s) - 1), num_pieces), []
    for piece, those in enumerate(numbers):
        pieces.append(path.with_name(f"piece {piece}.mp4"))
        size: dict[str, Any] = {"width": 32, "height": 32, "pixel_aspect": aspect}
        with video_writer(pieces[-1], **size, fps=25, num_b_frames=0) as write:
            for number in those:
                write(np.full((32, 32, 3), level(number), np.uint8))
    join(path, pieces, times_s, **options)
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


def late_s(path: Path, original: np.ndarray, sample_rate_hz: int) -> float:
    """By how much a file's decoded sound is later than samples (N, channels) that began with its picture."""
    samples = sound_of(path)[2]
    with av.open(str(path)) as container:
        first = next(container.decode(audio=0))
        begin_s, rate = float(first.pts * first.time_base), first.sample_rate
    assert rate == sample_rate_hz
    length = min(len(samples), len(original))
    spectra = (np.fft.rfft(each[:length].mean(axis=1), 2 * length) for each in (samples, original))
    alike = np.fft.irfft(next(spectra) * np.conj(next(spectra)))
    lag = int(np.argmax(alike))
    return begin_s + (lag - 2 * length if lag > length else lag) / rate


@pytest.mark.parametrize(
    ("name", "codec", "keep_sound"),
    [
        ("a.m4a", "aac", False),
        ("a.mp3", "libmp3lame", False),
        ("b.m4a", "alac", True),
        ("a.flac", "flac", True),
        ("a.mp4", "ac3", True),
        ("a.ogg", "libopus", True),
    ],
)
def test_compressed_sound_is_copied_packet_by_packet_and_stays_in_place(tmp_path, name, codec, keep_sound):
    sound = write_compressed(tmp_path / name, codec, noise(0.8, 48000))
    muxed = write_muxed(tmp_path / "out.mp4", sound, keep_sound=keep_sound)
    assert sound_of(muxed)[:2] == sound_of(sound)[:2]
    waveform, original = read_audio(muxed), read_audio(sound)
    assert int(np.argmax(waveform)) == pytest.approx(int(np.argmax(original)), abs=1)
    inner = slice(0, min(len(waveform), len(original)) - 50)
    np.testing.assert_allclose(waveform[inner], original[inner], atol=1e-3)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("sample_rate_hz", [8000, 11025, 16000, 44100, 48000])
def test_a_wav_becomes_aac_that_is_in_place_to_the_millisecond(tmp_path, sample_rate_hz, suffix):
    levels = noise(0.8, sample_rate_hz)
    muxed = write_muxed(tmp_path / f"out{suffix}", write_wav(tmp_path / "a.wav", levels, sample_rate_hz))
    assert sound_of(muxed)[0] == ("aac", sample_rate_hz)
    assert abs(late_s(muxed, levels, sample_rate_hz)) < 1e-3
    waveform = read_audio(muxed)
    assert int(np.argmax(waveform)) == pytest.approx(0.3 * 16000, abs=40)
    assert len(waveform) == pytest.approx(0.8 * 16000, abs=1024 * 16000 / sample_rate_hz)


@pytest.mark.parametrize(
    ("name", "codec"), [("b.m4a", "alac"), ("a.flac", "flac"), ("a.mp4", "ac3"), ("a.ogg", "libopus")]
)
def test_what_not_all_players_play_becomes_aac_in_place(tmp_path, name, codec):
    sound = write_compressed(tmp_path / name, codec, noise(0.8, 48000))
    muxed = write_muxed(tmp_path / "out.mp4", sound)
    assert sound_of(muxed)[0] == ("aac", 48000)
    assert abs(late_s(muxed, noise(0.8, 48000), 48000)) < 1e-3


def test_what_the_file_does_not_take_becomes_aac_though_players_know_it(tmp_path):
    sound = tmp_path / "telephone.mp3"
    with av.open(str(sound), "w") as container:
        stream: Any = container.add_stream("libmp3lame", rate=11025, layout="mono")
        frame = av.AudioFrame.from_ndarray(noise(0.8, 11025, 1).T, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 11025, 0, Fraction(1, 11025)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for suffix in (".mp4", ".mov"):
        muxed = write_muxed(tmp_path / f"out{suffix}", sound)
        assert sound_of(muxed)[0][0] == ("aac" if suffix == ".mp4" else "mp3")
        np.testing.assert_allclose(np.argmax(read_audio(muxed)), np.argmax(read_audio(sound)), atol=24)


@pytest.mark.parametrize(("sample_rate_hz", "num_channels"), [(16000, 1), (44100, 2), (96000, 2)])
@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "flac"), (".mkv", "flac"), (".mov", "alac")])
def test_wav_samples_survive_to_the_bit_where_that_is_asked(tmp_path, sample_rate_hz, num_channels, suffix, codec):
    levels = noise(0.8, sample_rate_hz, num_channels)
    sound = write_wav(tmp_path / "träger ton.wav", levels, sample_rate_hz)
    kind, _, samples = sound_of(write_muxed(tmp_path / f"out put{suffix}", sound, keep_sound=True))
    assert kind == (codec, sample_rate_hz)
    np.testing.assert_array_equal(samples[: len(levels)], levels)


@pytest.mark.parametrize("keep_sound", [False, True])
@pytest.mark.parametrize("num_channels", [3, 6, 8, 9, 16])
def test_any_number_of_channels_is_heard(tmp_path, num_channels, keep_sound):
    sound = write_wav(tmp_path / "a.wav", noise(0.8, 48000, num_channels), 48000)
    muxed = write_muxed(tmp_path / "out.mp4", sound, keep_sound=keep_sound)
    expected = num_channels if num_channels == 6 or (keep_sound and num_channels <= 8) else 2
    with av.open(str(muxed)) as container:
        assert container.streams.audio[0].codec_context.channels == expected
    assert int(np.argmax(read_audio(muxed))) == pytest.approx(0.3 * 16000, abs=16)


@pytest.mark.parametrize("name", ["a.wav", "a.m4a"])
@pytest.mark.parametrize("seconds", [0.4, 3.0])
def test_picture_and_sound_are_both_kept_whole_whichever_is_longer(tmp_path, name, seconds):
    sound = tmp_path / name
    if name == "a.wav":
        write_wav(sound, noise(seconds, 16000), 16000)
    else:
        write_compressed(sound, "aac", noise(seconds, 48000))
    muxed = write_muxed(tmp_path / "out.mp4", sound)
    assert len(list(read_frames(muxed))) == 20
    kept, original = len(sound_of(muxed)[2]), len(sound_of(sound)[2])
    assert original <= kept <= original + (1024 if name == "a.wav" else 0)
    assert probe(muxed).has_audio


@pytest.mark.parametrize("keep_sound", [False, True])
def test_a_hole_in_the_sound_stays_where_it_is(tmp_path, keep_sound):
    sound = tmp_path / "hole.mkv"
    with av.open(str(sound), "w") as container:
        stream: Any = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for start in (0, 8000):
            frame = av.AudioFrame.from_ndarray(noise(0.4, 16000, 1).T, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
            container.mux(stream.encode(frame))
    waveform = read_audio(write_muxed(tmp_path / "out.mp4", sound, keep_sound=keep_sound))
    assert [int(np.argmax(waveform[part : part + 8000])) for part in (0, 8000)] == pytest.approx([4800, 4800], abs=16)
    assert np.abs(waveform[6600:7800]).max() < 0.02


@pytest.mark.parametrize("codec", ["aac", "libmp3lame", "mp2"])
def test_a_clock_that_starts_again_goes_on_where_it_ended(tmp_path, codec):
    joined = tmp_path / "joined.ts"
    for _ in range(2):
        write_compressed(tmp_path / "one.ts", codec, noise(0.8, 48000), video_at_s=0)
        with joined.open("ab") as file:
            file.write((tmp_path / "one.ts").read_bytes())
    original = read_audio(joined)
    assert len(original) == pytest.approx(2 * 0.8 * 16000, abs=3000)
    waveform = read_audio(write_muxed(tmp_path / "out.mp4", joined))
    for part in (slice(0, 9000), slice(12000, 22000)):
        assert int(np.argmax(waveform[part])) == pytest.approx(int(np.argmax(original[part])), abs=16)
        assert original[part].max() > 0.5


def test_samples_that_are_no_numbers_are_silence_in_what_is_heard(tmp_path):
    samples = noise(0.8, 16000, 1).astype(np.float32)[:, 0] / 32768
    samples[[2000, 2001, 9000]] = np.nan, np.inf, 1e30
    with pytest.warns(UserWarning, match=r"a\.wav: some of its samples are no finite numbers; they are made silent"):
        muxed = write_muxed(tmp_path / "out.mp4", write_float_wav(tmp_path / "a.wav", samples))
    waveform = read_audio(muxed)
    assert np.isfinite(waveform).all()
    assert int(np.argmax(waveform)) == pytest.approx(0.3 * 16000, abs=40)


def test_the_track_that_is_asked_for_is_heard(tmp_path):
    films = write_tracks(tmp_path / "film.mkv", [("eng", 0.0, False), ("ger", 0.5, True)])
    for audio_track, loudness in ((None, 0.5), (0, 0.0), ("eng", 0.0), ("1", 0.5)):
        waveform = read_audio(write_joined(tmp_path / "out.mp4", EVEN, sound=films, audio_track=audio_track))
        assert waveform.max() == pytest.approx(loudness, abs=0.05)
    with pytest.raises(BadConfig, match=r"audio_track=fre; there are 0 \(eng\), 1 \(ger\)"):
        write_joined(tmp_path / "no.mp4", EVEN, sound=films, audio_track="fre")


EVEN = [Fraction(number, 25) for number in range(21)]
TIMES = [Fraction(0), Fraction(1, 25), Fraction(1, 10), Fraction(1001, 9000), Fraction(1, 2), Fraction(7, 5)]


@pytest.mark.parametrize("keep_sound", [True, False])
@pytest.mark.parametrize(("offset_s", "end_s"), [(0, None), (0.25, None), (-0.2, None), (0.25, 0.6)])
def test_a_sound_begins_and_ends_where_it_is_to_within_a_millisecond(tmp_path, keep_sound, offset_s, end_s):
    sound = write_wav(tmp_path / "s.wav", noise(0.8, 48000), 48000)  # a click at 0.3 s
    options = {"sound_offset_s": Fraction(offset_s), "sound_end_s": None if end_s is None else Fraction(end_s)}
    path = write_joined(tmp_path / "out.mp4", EVEN, sound=sound, keep_sound=keep_sound, **options)
    heard = read_audio(path, 48000)
    assert int(np.argmax(heard)) == pytest.approx((0.3 + offset_s) * 48000, abs=48)
    longest = 4608 if keep_sound else 2048  # of a packet
    assert len(heard) == pytest.approx((end_s or 0.8 + offset_s) * 48000, abs=longest)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_frames_are_shown_from_their_own_times_on_and_the_last_as_long_as_it_was(tmp_path, suffix):
    path = write_joined(tmp_path / f"out{suffix}", [*TIMES, TIMES[-1] + Fraction(1, 2)])
    assert [number_of(frame) for frame in read_frames(path)] == list(range(len(TIMES)))
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        clock = frames[0].time_base
        times = [frame.pts * clock for frame in frames]
        accuracy = 1e-3 if suffix == ".mkv" else 1e-5
        assert times == pytest.approx(TIMES, abs=accuracy)
        assert frames[-1].duration * clock == pytest.approx(0.5, abs=accuracy)
        if suffix != ".mkv":
            lengths = [frame.duration * clock for frame in frames[:-1]]
            assert lengths == pytest.approx([after - before for before, after in pairwise(TIMES)], abs=accuracy)
            assert container.duration == pytest.approx(1.9e6, abs=1e3)


def test_odd_sizes_are_made_even_by_what_is_at_the_border(tmp_path):
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 256, (9, 13, 3)), np.ones((8, 8, 1))).astype(np.uint8)[:67, :101]
    with video_writer(tmp_path / "odd.mp4", width=101, height=67, fps=25, crf=1) as write:
        write(picture)
        with pytest.raises(ValueError, match="frame 1"):
            write(np.zeros((68, 102, 3), np.uint8))
    with av.open(str(tmp_path / "odd.mp4")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
    (read,) = read_frames(tmp_path / "odd.mp4")
    assert read.shape == (68, 102, 3)
    difference = np.abs(read[[-1]].astype(int) - read[[-2]])
    assert np.median(difference) < 4
    assert np.median(np.abs(read[:67, :101].astype(int) - picture)) < 4


@pytest.mark.parametrize(
    ("name", "kind"), [("a.mp4", "isom"), ("a.M4V", "isom"), ("a.mov", "qt  "), ("a.mkv", "matroska")]
)
def test_a_file_is_what_its_name_says(tmp_path, name, kind):
    path = write_muxed(tmp_path / name, None)
    with av.open(str(path)) as container:
        brand = container.metadata.get("major_brand", "")
        assert kind in brand or kind in container.format.name.split(",")


@pytest.mark.parametrize("name", ["a.webm", "a.avi", "a.gif", "1", "a"])
def test_a_name_that_promises_something_else_is_refused(tmp_path, name):
    with pytest.raises(BadConfig, match=r"written as \.mp4, \.m4v, \.mov, \.mkv; give a name that ends so"):
        write_muxed(tmp_path / name, None)
    assert not list(tmp_path.iterdir())


def test_a_result_can_be_thrown_away():
    write_muxed(Path(os.devnull), None)
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_pixel_aspect_and_what_a_file_says_of_itself_are_kept(tmp_path, suffix):
    said = {"title": "Ä film", "comment": "dubbed", "creation_time": "2020-01-02T03:04:05.000000Z"}
    said |= {"timecode": "01:02:03:04"}
    path = write_joined(tmp_path / f"out{suffix}", EVEN, pixel_aspect=Fraction(4, 3), metadata=said)
    with av.open(str(path)) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
        kept = {name.lower(): text for name, text in (container.streams.video[0].metadata | container.metadata).items()}
    assert {name: kept.get(name) for name in said} == said


def test_what_telephones_say_of_a_video_is_kept(tmp_path):
    said = {"com.apple.quicktime.make": "Apple", "com.apple.quicktime.location.ISO6709": "+48.1+011.5/"}
    with av.open(str(write_joined(tmp_path / "out.mov", EVEN, metadata=said))) as container:
        assert {name: container.metadata.get(name) for name in said} == said


def test_what_cannot_be_written_is_no_fault_of_the_sound(tmp_path):
    sound = write_wav(tmp_path / "7.wav", noise(0.8, 48000, 7), 48000)
    with pytest.raises(BadMedia, match=r"out\.mov: such a sound or picture cannot be written there .* ends in \.mkv"):
        write_muxed(tmp_path / "out.mov", sound, keep_sound=True)
    assert sound_of(write_muxed(tmp_path / "out.mkv", sound, keep_sound=True))[0] == ("flac", 48000)


def test_a_sample_rate_that_aac_does_not_know_is_converted(tmp_path):
    levels = noise(0.8, 192000)
    muxed = write_muxed(tmp_path / "out.mp4", write_wav(tmp_path / "fast.wav", levels, 192000))
    assert sound_of(muxed)[0] == ("aac", 48000)
    assert int(np.argmax(read_audio(muxed))) == pytest.approx(0.3 * 16000, abs=16)


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
