"""A generator that speaks in one step, frame by frame (Wav2Lip, arXiv 2008.10010, section 3.3), for comparison."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lipsync_lightning.errors import ClipMismatch
from lipsync_lightning.models.wav2lip_syncnet import ConvBlock

RGB = 3


class Wav2LipGenerator(ModelMixin, ConfigMixin):
    """Returns whole faces of masked ones: an image encoder and decoder with skips, and each frame's sound between them.

    Frames know nothing of one another; what makes a clip of them is the loss. Sound comes as audio tokens and not as a
    crop of the clip's mel, which ends with the clip: tokens reach into the sound around it, in training and inference
    alike. With `LogMelAudioEncoder` and 8 tokens of 2 columns they are the 16 mel columns that Wav2Lip hears.

    Args:
        channels: of the image at full size, at half, at a quarter, ...; sound joins at the last.
        speech_channels: of the sound of a frame.
        num_tokens, token_width: A and D of the audio tokens.
    """

    @register_to_config
    def __init__(self, *, channels: Sequence[int], speech_channels: int, num_tokens: int, token_width: int):
        super().__init__()
        self.shrinks_by = 2 ** (len(channels) - 1)
        along: dict[str, Any] = {"kernel_size": (1, 3), "padding": (0, 1)}  # the tokens, as their order matters
        alike: dict[str, Any] = {"in_channels": speech_channels, "out_channels": speech_channels}
        self.speech_encoder = nn.Sequential(  # (N, D, 1, A) -> (N, channels, 1, 1)
            ConvBlock(in_channels=token_width, out_channels=speech_channels, **along),
            ConvBlock(**alike, **along, residual=True),
            ConvBlock(**alike, **along, residual=True),
            ConvBlock(**alike, kernel_size=(1, num_tokens), padding=0),
        )
        first = ConvBlock(in_channels=2 * RGB, out_channels=channels[0], kernel_size=7, padding=3)
        self.face_encoder = nn.ModuleList([first])
        self.face_encoder.extend(_pair_of_blocks(before, after, stride=2) for before, after in pairwise(channels))
        self.meeting = _pair_of_blocks(channels[-1] + speech_channels, channels[-1])
        self.face_decoder = nn.ModuleList(
            _pair_of_blocks(below + here, here) for here, below in reversed(list(pairwise(channels)))
        )
        self.to_pixels = nn.Conv2d(channels[0], RGB, kernel_size=3, padding=1)

    def forward(self, masked: Tensor, reference: Tensor, audio: Tensor) -> Tensor:
        """Return frames (B, T, 3, H, W) in [-1, 1].

        Args:
            masked: (B, T, 3, H, W) in [-1, 1], the frames to be completed, 0 where they are to be generated.
            reference: (B, T, 3, H, W) in [-1, 1], the same person at another time.
            audio: (B, T, A, D), the audio tokens of each frame.
        Raises: ClipMismatch, if frames cannot be halved often enough.
        """
        if any(side % self.shrinks_by for side in masked.shape[-2:]):
            way_out = "use a resolution divisible by it, or fewer `channels`"
            raise ClipMismatch(f"frames {tuple(masked.shape)} cannot be shrunk by {self.shrinks_by}; {way_out}")
        hidden_NCHW = rearrange(torch.cat([masked, reference], dim=2), "b t c h w -> (b t) c h w")
        skips = []
        for block in self.face_encoder:
            hidden_NCHW = block(hidden_NCHW)
            skips.append(hidden_NCHW)
        speech_NCHW = self.speech_encoder(rearrange(audio, "b t a d -> (b t) d 1 a"))
        height, width = skips.pop().shape[2:]
        hidden_NCHW = self.meeting(torch.cat([hidden_NCHW, speech_NCHW.expand(-1, -1, height, width)], dim=1))
        for block in self.face_decoder:
            hidden_NCHW = block(torch.cat([F.interpolate(hidden_NCHW, scale_factor=2.0), skips.pop()], dim=1))
        return rearrange(self.to_pixels(hidden_NCHW).tanh(), "(b t) c h w -> b t c h w", b=len(masked))


def _pair_of_blocks(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        ConvBlock(in_channels=in_channels, out_channels=out_channels, stride=stride),
        ConvBlock(in_channels=out_channels, out_channels=out_channels, residual=True),
    )
