from pathlib import Path

import torch

from lipsync_lightning.models.audio_encoder import LogMelAudioEncoder, WhisperAudioEncoder
from lipsync_lightning.models.fingerprint import fingerprint, fingerprint_with_settings

LOG_MEL = {"num_tokens": 4, "columns_per_token": 2, "sample_rate_hz": 16000, "mel_hz": 80, "num_mels": 80}
WHISPER = {"n_mels": 8, "n_audio_ctx": 10, "n_audio_state": 16, "n_audio_head": 2, "n_audio_layer": 1}


def test_what_is_saved_and_loaded_is_still_the_same(tmp_path: Path):
    for encoder in (LogMelAudioEncoder(**LOG_MEL), WhisperAudioEncoder(**WHISPER)):
        encoder.save_pretrained(tmp_path / type(encoder).__name__)
        again = type(encoder).from_pretrained(tmp_path / type(encoder).__name__)
        assert fingerprint_with_settings(again) == fingerprint_with_settings(encoder)


def test_other_settings_of_the_same_weights_are_another_encoder():
    one, other = LogMelAudioEncoder(**LOG_MEL), LogMelAudioEncoder(**{**LOG_MEL, "mel_hz": 100})
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint_with_settings(one) != fingerprint_with_settings(other)


def test_one_changed_weight_is_another_encoder():
    encoder = WhisperAudioEncoder(**WHISPER)
    before = fingerprint_with_settings(encoder)
    with torch.no_grad():
        encoder.encoder.conv1.weight[0, 0, 0] += 1e-3
    assert fingerprint_with_settings(encoder) != before
