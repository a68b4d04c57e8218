"""What the U-Net hears: audio tokens for each video frame."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from math import ceil, floor
from typing import NamedTuple

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import WhisperConfig
from transformers.audio_utils import mel_filter_bank
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from lipsync_lightning.errors import ClipTooShort
from lipsync_lightning.media.mel import log_mel

WHISPER_RATE_HZ = 16000  # this and the next three: Robust Speech Recognition (arXiv 2212.04356), section 2.2
WHISPER_FFT = 400
WHISPER_HOP = 160
WHISPER_ROWS_HZ = 50  # states per second: one for two mel columns
_ROWS_BEFORE = 4  # rows c-4 to c+5 around a frame's row c: LatentSync (arXiv 2412.09262), section 3.1
_ROWS_PER_FRAME = 10
_ROUNDING = 1e-6  # of a frame's time, far below one row

LOG_MEL_MEAN = -2.0  # of speech with pauses: -2.5 and -1.8 were measured on two clips, standard deviation 0.95 and 0.80
LOG_MEL_STD = 0.9
_LOG_MEL_CHUNK_S = 30
_LOG_MEL_CONTEXT_S = 0.1  # the log-mel's Fourier window reaches 25 ms to either side


class SoundStates(NamedTuple):
    """States along an utterance, computed chunk by chunk when they are needed."""

    num_rows: int
    rows_per_chunk: int
    chunk: Callable[[int], Tensor]  # chunk index to (rows, ...); only the last chunk has fewer than `rows_per_chunk`


class AudioEncoder(ModelMixin, ConfigMixin):
    """Turns a whole utterance into (A, D) audio tokens for each video frame.

    A subclass computes states of the sound at a fixed rate; a frame hears a few of them.
    """

    def sound_states(self, waveform: Tensor, num_frames: int, fps: float) -> SoundStates:
        """Return the states of the utterance, as far as `num_frames` of video need them."""
        raise NotImplementedError

    def frame_rows(self, frame: int, fps: float) -> range:
        """The rows of the states that video frame `frame` hears; those outside repeat the first or the last."""
        raise NotImplementedError

    def rows_to_tokens(self, rows: Tensor) -> Tensor:
        """Return (frames, A, D) of (frames, rows, ...)."""
        raise NotImplementedError

    def tokens(self, waveform: Tensor, num_frames: int, fps: float = 25.0) -> Tensor:
        """Return (num_frames, A, D).

        Args:
            waveform: (N,), mono sound in [-1, 1]. What a frame hears past its ends is up to the encoder.
            num_frames: of the video.
            fps: video frames per second.
        """
        return next(self.token_windows(waveform, num_frames, fps, num_frames))

    @torch.no_grad()
    def token_windows(self, waveform: Tensor, num_frames: int, fps: float, window: int) -> Iterator[Tensor]:
        """Yield what `tokens` returns in pieces of `window` frames, holding at most two chunks of states."""
        num_rows, rows_per_chunk, chunk = self.sound_states(waveform, num_frames, fps)
        recent_chunk = lru_cache(maxsize=2)(chunk)

        def state(row: int) -> Tensor:
            index, row_of_chunk = divmod(min(max(row, 0), num_rows - 1), rows_per_chunk)
            return recent_chunk(index)[row_of_chunk]

        for first in range(0, num_frames, window):
            wanted = [self.frame_rows(frame, fps) for frame in range(first, min(first + window, num_frames))]
            start = wanted[0].start
            states = torch.stack([state(row) for row in range(start, wanted[-1].stop)])
            yield self.rows_to_tokens(torch.stack([states[rows.start - start : rows.stop - start] for rows in wanted]))


class WhisperAudioEncoder(AudioEncoder):
    """Returns (10 * (n_audio_layer + 1), n_audio_state) tokens a frame: states of Whisper's encoder around it.

    The states are the embedding and the output of each block, before the final norm; tokens run through time first.
    Past the ends of the sound the first or the last state is heard again, as published.

    Args:
        n_mels, n_audio_ctx, n_audio_state, n_audio_head, n_audio_layer: as in the `dims` of an OpenAI checkpoint.
    """

    @register_to_config
    def __init__(self, *, n_mels: int, n_audio_ctx: int, n_audio_state: int, n_audio_head: int, n_audio_layer: int):
        super().__init__()
        self.rows_per_chunk = n_audio_ctx
        self.encoder = WhisperEncoder(
            WhisperConfig(
                num_mel_bins=n_mels,
                max_source_positions=n_audio_ctx,
                d_model=n_audio_state,
                encoder_attention_heads=n_audio_head,
                encoder_layers=n_audio_layer,
                encoder_ffn_dim=4 * n_audio_state,
            )
        ).eval()
        filters = mel_filter_bank(
            1 + WHISPER_FFT // 2, n_mels, 0.0, WHISPER_RATE_HZ / 2, WHISPER_RATE_HZ, norm="slaney", mel_scale="slaney"
        )
        filters_MF = rearrange(torch.from_numpy(filters).float(), "f m -> m f")
        self.register_buffer("mel_filters", filters_MF, persistent=False)
        self.mel_filters: Tensor

    def sound_states(self, waveform: Tensor, num_frames: int, fps: float) -> SoundStates:
        waveform_N = waveform.to(self.mel_filters.device, torch.float32)
        if len(waveform_N) < WHISPER_FFT:
            raise ClipTooShort(f"Whisper needs {WHISPER_FFT} samples of sound, got {len(waveform_N)}; pad the sound")
        columns_per_chunk = 2 * self.rows_per_chunk
        log_mel_ML = whisper_log_mel(waveform_N, self.mel_filters.float())
        num_columns = log_mel_ML.shape[1]
        full_chunks, rest = divmod(num_columns, columns_per_chunk)

        def chunk(index: int) -> Tensor:
            columns_ML = log_mel_ML[:, index * columns_per_chunk : (index + 1) * columns_per_chunk]
            missing = columns_per_chunk - columns_ML.shape[1]
            return self.layer_states(F.pad(columns_ML, (0, missing)))[: columns_ML.shape[1] // 2]

        return SoundStates(full_chunks * self.rows_per_chunk + rest // 2, self.rows_per_chunk, chunk)

    def layer_states(self, mel: Tensor) -> Tensor:
        """Return (n_audio_ctx, n_audio_layer + 1, n_audio_state) of (n_mels, 2 * n_audio_ctx) log-mel."""
        states_1LD: list[Tensor] = []
        # What enters a block or the final norm is what came before: the embedding first, the last block un-normalised.
        readers: list[nn.Module] = [*self.encoder.layers, self.encoder.layer_norm]
        hooks = [reader.register_forward_pre_hook(lambda _, inputs: states_1LD.append(inputs[0])) for reader in readers]
        try:
            self.encoder(rearrange(mel.to(self.encoder.conv1.weight.dtype), "m l -> 1 m l"))
        finally:
            for hook in hooks:
                hook.remove()
        return rearrange(states_1LD, "layers 1 l d -> l layers d")

    def frame_rows(self, frame: int, fps: float) -> range:
        first = int(frame * WHISPER_ROWS_HZ / fps) - _ROWS_BEFORE
        return range(first, first + _ROWS_PER_FRAME)

    def rows_to_tokens(self, rows: Tensor) -> Tensor:
        return rearrange(rows, "t rows layers d -> t (rows layers) d")


def whisper_log_mel(waveform: Tensor, mel_filters: Tensor, columns_per_step: int = 3000) -> Tensor:
    """Return Whisper's log-mel (n_mels, N // 160): a range of at most 2 below the whole sound's maximum.

    Args:
        waveform: (N,), mono, in [-1, 1], at 16 kHz.
        mel_filters: (n_mels, 201).
        columns_per_step: computed at once, which bounds the memory of the spectrum.
    Source: Robust Speech Recognition (arXiv 2212.04356), section 2.2; its code keeps 8 decades below the maximum.
    """
    num_columns = len(waveform) // WHISPER_HOP
    padded_N = F.pad(waveform[None], (WHISPER_FFT // 2, WHISPER_FFT // 2), mode="reflect")[0]
    window = torch.hann_window(WHISPER_FFT, device=waveform.device)
    pieces_ML = []
    for first in range(0, num_columns, columns_per_step):
        last = min(first + columns_per_step, num_columns) - 1
        piece_N = padded_N[first * WHISPER_HOP : last * WHISPER_HOP + WHISPER_FFT]
        spectrum_FL = torch.stft(piece_N, WHISPER_FFT, WHISPER_HOP, window=window, center=False, return_complex=True)
        pieces_ML.append((mel_filters @ spectrum_FL.abs().square()).clamp(min=1e-10).log10())
    log_ML = torch.cat(pieces_ML, dim=1)
    return (torch.maximum(log_ML, log_ML.max() - 8.0) + 4.0) / 4.0


class LogMelAudioEncoder(AudioEncoder):
    """Returns (num_tokens, columns_per_token * num_mels) tokens a frame: the log-mel around it, without any weights.

    Past the ends of the sound there is silence.

    Args:
        num_tokens, columns_per_token: tokens of each frame, and log-mel columns that make one of them.
        sample_rate_hz, mel_hz, num_mels: of the sound, and columns per second and bins of its log-mel.
    """

    @register_to_config
    def __init__(self, *, num_tokens: int, columns_per_token: int, sample_rate_hz: int, mel_hz: int, num_mels: int):
        super().__init__()
        self.columns_per_token = columns_per_token
        self.columns_per_frame = num_tokens * columns_per_token
        self.settings = {"sample_rate_hz": sample_rate_hz, "mel_hz": mel_hz, "num_mels": num_mels}
        self.mel_hz = mel_hz
        self.hop = sample_rate_hz // mel_hz
        self.register_buffer("mel_mean", torch.tensor(LOG_MEL_MEAN))
        self.register_buffer("mel_std", torch.tensor(LOG_MEL_STD))
        self.mel_mean: Tensor
        self.mel_std: Tensor

    def sound_states(self, waveform: Tensor, num_frames: int, fps: float) -> SoundStates:
        margin = self.columns_per_frame
        num_columns = 2 * margin + ceil(num_frames / fps * self.mel_hz)
        sound_N = F.pad(waveform.to(self.mel_mean.device, torch.float32), (margin * self.hop, 0))
        sound_N = F.pad(sound_N, (0, max(0, num_columns * self.hop - len(sound_N))))  # silence
        columns_per_chunk = _LOG_MEL_CHUNK_S * self.mel_hz
        context = ceil(_LOG_MEL_CONTEXT_S * self.mel_hz)

        def chunk(index: int) -> Tensor:
            first, last = index * columns_per_chunk, min((index + 1) * columns_per_chunk, num_columns)
            start = max(first - context, 0)
            mel_ML = log_mel(sound_N[start * self.hop : (last + context) * self.hop], **self.settings)
            return rearrange(mel_ML[:, first - start : last - start], "m l -> l m")

        return SoundStates(num_columns, columns_per_chunk, chunk)

    def frame_rows(self, frame: int, fps: float) -> range:
        middle = (frame + 0.5) / fps * self.mel_hz
        # Columns first .. first + n - 1 have their centre at first + (n - 1) / 2; the sound begins n columns in.
        first = floor(middle - (self.columns_per_frame - 1) / 2 + 0.5 + _ROUNDING) + self.columns_per_frame
        return range(first, first + self.columns_per_frame)

    def rows_to_tokens(self, rows: Tensor) -> Tensor:
        return rearrange((rows - self.mel_mean) / self.mel_std, "t (a k) m -> t a (k m)", k=self.columns_per_token)
