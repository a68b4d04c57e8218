from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import WhisperFeatureExtractor

from lipsync_lightning.media.mel import log_mel
from lipsync_lightning.models.audio_encoder import (
    LOG_MEL_MEAN,
    LOG_MEL_STD,
    AudioEncoder,
    LogMelAudioEncoder,
    WhisperAudioEncoder,
    whisper_log_mel,
)
from lipsync_lightning.models.latentsync import whisper_encoder_from_reference
from lipsync_lightning.models.reference_names import renamed, whisper_names
from oracle import fill_state_dict

FIXTURES = Path(__file__).parents[1] / "fixtures"
RATE = 16000
DIMS = {"n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": 16, "n_audio_head": 2, "n_audio_layer": 2}
# The rows of Whisper's 150 states of three seconds that a frame hears.
ROWS = {
    0: [0, 0, 0, 0, 0, 1, 2, 3, 4, 5],
    1: [0, 0, 0, 1, 2, 3, 4, 5, 6, 7],
    5: [6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    73: [142, 143, 144, 145, 146, 147, 148, 149, 149, 149],
    74: [144, 145, 146, 147, 148, 149, 149, 149, 149, 149],
    75: [146, 147, 148, 149, 149, 149, 149, 149, 149, 149],  # past the end of the sound: its last state is held
    76: [148, 149, 149, 149, 149, 149, 149, 149, 149, 149],
}


def openai_weights(num_context: int = 1500) -> dict[str, torch.Tensor]:
    """The made-up weights of the reference run, under OpenAI's names."""
    network = WhisperAudioEncoder(**{**DIMS, "n_audio_ctx": num_context})
    return fill_state_dict(renamed(network.state_dict(), whisper_names))


def whisper(num_context: int = 1500) -> WhisperAudioEncoder:
    return whisper_encoder_from_reference(openai_weights(num_context), {**DIMS, "n_audio_ctx": num_context})


def log_mel_encoder() -> LogMelAudioEncoder:
    return LogMelAudioEncoder(num_tokens=8, columns_per_token=2, sample_rate_hz=RATE, mel_hz=80, num_mels=80)


def speechlike(seconds: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    times = torch.arange(int(seconds * RATE)) / RATE
    tone = torch.sin(2 * torch.pi * (150 + 40 * torch.sin(3 * times)) * times) * torch.sin(2 * times).square()
    return 0.3 * tone + 0.02 * torch.randn(len(times), generator=generator)


ENCODERS = [pytest.param(lambda: whisper(50), id="whisper"), pytest.param(log_mel_encoder, id="log_mel")]


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    return load_file(FIXTURES / "whisper.safetensors")


def test_whisper_tokens_are_the_reference_states_around_each_frame(reference):
    tokens = whisper().tokens(reference["wav_int16"].float() / 32768, num_frames=77)
    assert tokens.shape == (77, 30, 16)
    for frame in range(77):
        rows = [min(max(row, 0), 149) for row in range(2 * frame - 4, 2 * frame + 6)]
        assert rows == ROWS.get(frame, rows)
        expected = rearrange(reference["features"][rows], "rows layers d -> (rows layers) d")
        torch.testing.assert_close(tokens[frame], expected, rtol=0, atol=2e-5)


def test_whisper_log_mel_is_that_of_transformers_without_its_padding():
    waveform, network = speechlike(3.0), whisper(50)
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=3)
    (expected,) = extractor(waveform.numpy(), sampling_rate=RATE, return_tensors="pt")["input_features"]
    ours = whisper_log_mel(waveform, network.mel_filters, columns_per_step=77)
    assert ours.shape == (80, 300)
    # The last columns differ: transformers sees the zeros it pads with where OpenAI's code reflects the sound.
    torch.testing.assert_close(ours[:, :298], expected[:, :298], rtol=0, atol=1e-4)


def test_whisper_reads_sixty_five_seconds_in_windows_of_thirty():
    waveform, network = speechlike(65.0), whisper()
    mel = whisper_log_mel(waveform, network.mel_filters)
    encoder, pieces = network.encoder, []
    with torch.no_grad():
        for window, num_rows in zip(F.pad(mel, (0, 2500)).split(3000, dim=1), (1500, 1500, 250), strict=True):
            hidden = F.gelu(encoder.conv2(F.gelu(encoder.conv1(window[None]))))
            states = [rearrange(hidden, "1 d l -> 1 l d") + encoder.embed_positions.weight]
            for layer in encoder.layers:
                states.append(layer(states[-1], None))
            pieces.append(rearrange(states, "layers 1 l d -> l layers d")[:num_rows])
    expected = torch.cat(pieces)
    tokens = rearrange(network.tokens(waveform, num_frames=1625), "t (rows layers) d -> t rows layers d", rows=10)
    assert len(expected) == 3250
    for frame in (0, 748, 749, 750, 751, 1499, 1500, 1501, 1624):
        rows = (torch.arange(10) + 2 * frame - 4).clamp(0, 3249)
        torch.testing.assert_close(tokens[frame], expected[rows], rtol=0, atol=2e-5)


@pytest.mark.parametrize("build", ENCODERS)
@pytest.mark.parametrize("window", [1, 7, 80])
def test_tokens_read_piece_by_piece_and_again_are_exactly_the_tokens(build: Callable[[], AudioEncoder], window: int):
    encoder, waveform = build(), speechlike(3.4)
    read, tokens = encoder.token_reader(waveform, 85, 25.0), encoder.tokens(waveform, 85)
    for first in (*range(0, 85, window), 40):
        frames = range(first, min(first + window, 85))
        assert torch.equal(read(frames), tokens[first : first + window])


@pytest.mark.parametrize("build", ENCODERS)
def test_a_frame_shown_late_hears_what_is_heard_then(build: Callable[[], AudioEncoder]):
    """Half a frame of 25 a second is a whole one of 50: one row of Whisper, 1.6 columns of log-mel."""
    encoder, waveform = build(), speechlike(3.4)
    late = encoder.token_reader(waveform, 85, 25.0)([10, 10.5, 11])
    assert not torch.equal(late[0], late[1])
    assert not torch.equal(late[1], late[2])


def test_a_chunk_of_whisper_is_computed_once_and_only_when_a_frame_needs_it(monkeypatch):
    encoder, computed = whisper(50), []
    original = encoder.layer_states
    monkeypatch.setattr(encoder, "layer_states", lambda mel: computed.append(1) or original(mel))
    read = encoder.token_reader(speechlike(5.0), 125, 25.0)
    read(range(5))
    assert len(computed) == 1
    for first in range(5, 125, 5):
        read(range(first, first + 5))
    assert len(computed) == 5


@pytest.mark.parametrize("build", ENCODERS)
def test_tokens_made_on_the_device_of_what_workers_send_are_the_tokens(build: Callable[[], AudioEncoder]):
    """Windows within one chunk of Whisper (50 rows, 25 frames), across two, and at both ends, in one batch."""
    encoder, starts, heard = build(), [0, 15, 40, 77], []
    sounds = [speechlike(3.4), speechlike(2.0).flip(0)]
    for waveform, places in zip(sounds, (starts, starts[:3]), strict=True):
        heard += encoder.windows_heard(waveform, 25 * len(waveform) // RATE, 25.0, places, 8)
    expected = [encoder.tokens(sounds[0], 85)[start : start + 8] for start in starts]
    expected += [encoder.tokens(sounds[1], 50)[start : start + 8] for start in starts[:3]]
    torch.testing.assert_close(encoder.tokens_heard(heard), torch.stack(expected), rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("build", ENCODERS)
def test_all_states_give_the_tokens(build: Callable[[], AudioEncoder]):
    encoder, waveform = build(), speechlike(3.4)
    with torch.no_grad():
        sound = encoder.sound_states(waveform, 85, 25.0)
        states = sound.all()
    assert len(states) == sound.num_rows
    rows = torch.tensor([list(encoder.frame_rows(frame, 25.0)) for frame in range(85)]).clamp(0, len(states) - 1)
    torch.testing.assert_close(encoder.rows_to_tokens(states[rows]), encoder.tokens(waveform, 85), rtol=1e-6, atol=2e-6)


def test_log_mel_hears_silence_where_the_sound_is_shorter_than_the_video():
    encoder, waveform = log_mel_encoder(), speechlike(1.0)
    silent = torch.cat([waveform, torch.zeros(RATE)])
    assert torch.equal(encoder.tokens(waveform, 50), encoder.tokens(silent, 50))


def test_log_mel_tokens_are_the_sixteen_columns_centred_on_the_frame_without_a_seam_between_chunks():
    waveform = speechlike(31.0)
    tokens = log_mel_encoder().tokens(waveform, 775)
    mel = log_mel(waveform, sample_rate_hz=RATE, mel_hz=80, num_mels=80)
    for frame in [20, *range(735, 765)]:
        columns = rearrange(tokens[frame], "a (k m) -> m (a k)", k=2) * LOG_MEL_STD + LOG_MEL_MEAN
        first = int((frame + 0.5) * 80 / 25 - 7.0 + 1e-6)
        torch.testing.assert_close(columns, mel[:, first : first + 16], rtol=0, atol=1e-3)
