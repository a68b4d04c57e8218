"""What the U-Net hears: audio tokens for each video frame."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import ceil, floor
from typing import Any, NamedTuple

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
from lipsync_lightning.media.mel import log_mel_part

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


class SoundStates(NamedTuple):
    """States along an utterance, computed chunk by chunk when they are needed."""

    num_rows: int
    rows_per_chunk: int
    chunk: Callable[[int], Tensor]  # chunk index to (rows, ...), `rows_per_chunk` or more, but for the last chunk

    def all(self) -> Tensor:
        """Return (num_rows, ...)."""
        chunks = [self.chunk(index) for index in range(ceil(self.num_rows / self.rows_per_chunk))]
        return torch.cat(chunks)[: self.num_rows]


class AudioEncoder(ModelMixin, ConfigMixin):
    """Turns a whole utterance into (A, D) audio tokens for each video frame.

    A subclass computes states of the sound at a fixed rate; a frame hears a few of them.
    """

    def sound_states(self, waveform: Tensor, num_frames: int, fps: float) -> SoundStates:
        """Return the states of the utterance, as far as `num_frames` of video need them."""
        raise NotImplementedError

    def frame_rows(self, frame: float, fps: float) -> range:
        """The rows of the states that video frame `frame` hears; those outside repeat the first or the last."""
        raise NotImplementedError

    def rows(self, frames: Sequence[float], fps: float, num_rows: int) -> Tensor:
        """Return which of `num_rows` states each frame hears, as `frame_rows` says: (frames, rows), int64."""
        return torch.tensor([list(self.frame_rows(frame, fps)) for frame in frames]).clamp(0, num_rows - 1)

    def rows_to_tokens(self, rows: Tensor) -> Tensor:
        """Return (frames, A, D) of (frames, rows, ...)."""
        raise NotImplementedError

    def windows_heard(
        self, waveform: Tensor, num_frames: int, fps: float, starts: Sequence[int], window: int, every_nth: int = 1
    ) -> list[Any]:
        """Return of each window of frames what `tokens_heard` makes its tokens of: the part of a data worker, on a CPU.

        Args: as of `tokens`; starts: each window's first frame; window: its frames, of which every nth counts.
        """
        tokens = self.tokens(waveform, num_frames, fps)
        return [tokens[start : start + window : every_nth].clone() for start in starts]

    def tokens_heard(self, heard: Sequence[Any]) -> Tensor:
        """Return the tokens (B, T, A, D) of a batch of `windows_heard`, on the device of both."""
        return torch.stack(list(heard))

    def tokens(self, waveform: Tensor, num_frames: int, fps: float = 25.0) -> Tensor:
        """Return (num_frames, A, D).

        Args:
            waveform: (N,), mono sound in [-1, 1]. What a frame hears past its ends is up to the encoder.
            num_frames: of the video.
            fps: video frames per second.
        """
        return self.token_reader(waveform, num_frames, fps)(range(num_frames))

    def token_reader(self, waveform: Tensor, num_frames: int, fps: float) -> Callable[[Sequence[float]], Tensor]:
        """Return what gives the tokens (T, A, D) of some frames near one another, computing chunks as they are needed.

        Frames are numbered as at `fps` a second; between two of them, where a video's rate varies, numbers are broken.
        Args: as of `tokens`; `num_frames` is the least that the sound's states must last for. Holds two chunks of them.
        """
        num_rows, rows_per_chunk, chunk = self.sound_states(waveform, num_frames, fps)
        recent_chunk = lru_cache(maxsize=2)(chunk)

        @torch.no_grad()
        def tokens_of(frames: Sequence[float]) -> Tensor:
            rows_TR = self.rows(frames, fps, num_rows)
            first = int(rows_TR.min())
            places = [divmod(row, rows_per_chunk) for row in range(first, int(rows_TR.max()) + 1)]
            states = torch.stack([recent_chunk(index)[row_of_chunk] for index, row_of_chunk in places])
            return self.rows_to_tokens(states[rows_TR - first])

        return tokens_of


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
        chunks_KML, num_rows = self.mel_chunks(waveform)
        return SoundStates(num_rows, self.rows_per_chunk, lambda index: self.layer_states(chunks_KML[index][None]))

    def windows_heard(
        self, waveform: Tensor, num_frames: int, fps: float, starts: Sequence[int], window: int, every_nth: int = 1
    ) -> list[Any]:
        """Return of each window the log-mel of the chunks it lies in, (K, n_mels, 2 * n_audio_ctx), and its rows there.

        Whole chunks, because each state attends to all of its own.
        """
        chunks_KML, num_rows = self.mel_chunks(waveform)
        heard = []
        for start in starts:
            rows_TR = self.rows(range(start, start + window, every_nth), fps, num_rows)
            first, last = int(rows_TR.min()) // self.rows_per_chunk, int(rows_TR.max()) // self.rows_per_chunk
            heard.append((chunks_KML[first : last + 1].clone(), rows_TR - first * self.rows_per_chunk))
        return heard

    @torch.no_grad()
    def tokens_heard(self, heard: Sequence[Any]) -> Tensor:
        states_RLD = self.layer_states(torch.cat([chunks_KML for chunks_KML, _ in heard]))
        states_of_windows = states_RLD.split([len(chunks_KML) * self.rows_per_chunk for chunks_KML, _ in heard])
        pairs = zip(states_of_windows, heard, strict=True)
        return torch.stack([self.rows_to_tokens(own_RLD[rows_TR]) for own_RLD, (_, rows_TR) in pairs])

    def mel_chunks(self, waveform: Tensor) -> tuple[Tensor, int]:
        """Return the sound's log-mel as the encoder takes it, (K, n_mels, 2 * n_audio_ctx), and how many rows it has.

        Behind the sound there are zeros. Raises: ClipTooShort.
        """
        waveform_N = waveform.to(self.mel_filters.device, torch.float32)
        if len(waveform_N) < WHISPER_FFT:
            raise ClipTooShort(f"Whisper needs {WHISPER_FFT} samples of sound, got {len(waveform_N)}; pad the sound")
        log_mel_ML = whisper_log_mel(waveform_N, self.mel_filters.float())
        num_columns, columns_per_chunk = log_mel_ML.shape[1], 2 * self.rows_per_chunk
        padded_ML = F.pad(log_mel_ML, (0, -num_columns % columns_per_chunk))
        return rearrange(padded_ML, "m (k l) -> k m l", l=columns_per_chunk), num_columns // 2

    def layer_states(self, chunks_KML: Tensor) -> Tensor:
        """Return (K * n_audio_ctx, n_audio_layer + 1, n_audio_state) of (K, n_mels, 2 * n_audio_ctx) log-mel."""
        states_KRD: list[Tensor] = []
        # What enters a block or the final norm is what came before: the embedding first, the last block un-normalised.
        readers: list[nn.Module] = [*self.encoder.layers, self.encoder.layer_norm]
        hooks = [reader.register_forward_pre_hook(lambda _, inputs: states_KRD.append(inputs[0])) for reader in readers]
        try:
            self.encoder(chunks_KML.to(self.encoder.conv1.weight.dtype))
        finally:
            for hook in hooks:
                hook.remove()
        return rearrange(states_KRD, "layers k r d -> (k r) layers d")

    def frame_rows(self, frame: float, fps: float) -> range:
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

        def chunk(index: int) -> Tensor:
            first, last = index * columns_per_chunk, min((index + 1) * columns_per_chunk, num_columns)
            return rearrange(log_mel_part(sound_N, first, last, **self.settings), "m l -> l m")

        return SoundStates(num_columns, columns_per_chunk, chunk)

    def frame_rows(self, frame: float, fps: float) -> range:
        middle = (frame + 0.5) / fps * self.mel_hz
        # Columns first .. first + n - 1 have their centre at first + (n - 1) / 2; the sound begins n columns in.
        first = floor(middle - (self.columns_per_frame - 1) / 2 + 0.5 + _ROUNDING) + self.columns_per_frame
        return range(first, first + self.columns_per_frame)

    def rows_to_tokens(self, rows: Tensor) -> Tensor:
        return rearrange((rows - self.mel_mean) / self.mel_std, "t (a k) m -> t a (k m)", k=self.columns_per_token)
