"""SyncNets say how well lips and sound of a clip fit; StableSyncNet is LatentSync's (arXiv 2412.09262, section 3.3).

Its parameter names are those of the released `stable_syncnet.pt`, so that it loads without any mapping.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lipsync_lightning.errors import ClipMismatch

NORM_EPS = 1e-6  # of the released networks' group norms
_UNCHANGED = (1, 1)


class SyncNet(ModelMixin, ConfigMixin):
    """Base of SyncNets: unit embeddings of lips and of sound, whose scalar product is the similarity.

    A subclass registers two networks, `audio_encoder` and `visual_encoder`: (B, C, H, W) -> (B, D, 1, 1).
    """

    # Without these, diffusers answers `self.audio_encoder` with the constructor's argument of the same name.
    @property
    def audio_encoder(self) -> nn.Module:
        """The network of sound."""
        return cast(nn.Module, self._modules["audio_encoder"])

    @property
    def visual_encoder(self) -> nn.Module:
        """The network of lips."""
        return cast(nn.Module, self._modules["visual_encoder"])

    def probability(self, similarity: Tensor) -> Tensor:
        """Return how probable it is that lips and sound belong together; without calibration the similarity itself.

        The published SyncNet's similarity is trained to be that probability; others are calibrated after training.
        """
        calibration = self.config.get("calibration")
        if calibration is None:
            return similarity
        return torch.sigmoid(calibration["scale"] * similarity + calibration["bias"])

    def calibrate(self, scale: float, bias: float) -> None:
        """Store in the configuration that sigmoid(scale * similarity + bias) is this network's probability."""
        self.register_to_config(calibration={"scale": scale, "bias": bias})

    def forward(self, frames: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Return the unit embeddings (B, D) of lips and of sound.

        Args:
            frames: (B, T*3, h, w), the lower half of the face in [-1, 1], the clip's frames one after another in the
                channels; latents (B, T*C, h, w) of the whole face for a SyncNet that was trained on those.
            mel: (B, 1, M, L), the log-mel heard during the clip.
        Raises: ClipMismatch, if the clip is not of the size this SyncNet was built for.
        """
        return self.embed_frames(frames), self.embed_mel(mel)

    def embed_frames(self, frames: Tensor) -> Tensor:
        """Return the unit embeddings (B, D) of lips; `frames` as in `forward`."""
        return _unit_embedding(self.visual_encoder, frames)

    def embed_mel(self, mel: Tensor) -> Tensor:
        """Return the unit embeddings (B, D) of sound; `mel` as in `forward`."""
        return _unit_embedding(self.audio_encoder, mel)


def _unit_embedding(encoder: nn.Module, images_BCHW: Tensor) -> Tensor:
    features_BCHW = encoder(images_BCHW)
    if tuple(features_BCHW.shape[2:]) != _UNCHANGED:
        given, became = tuple(images_BCHW.shape), tuple(features_BCHW.shape)
        way_out = "set `downsample_factors` for this clip, or make the clip it was built for"
        raise ClipMismatch(f"this SyncNet must shrink frames or mel {given} to 1x1, made {became}; {way_out}")
    return F.normalize(rearrange(features_BCHW, "b c 1 1 -> b c"), dim=-1)


class StableSyncNet(SyncNet):
    """Returns unit embeddings of lips and of sound; their scalar product is the similarity, in [0, 1].

    Both end in a ReLU before they are normalised, hence no similarity below 0.

    Args:
        audio_encoder: arguments of the `DownEncoder` of sound; `in_channels` is 1.
        visual_encoder: arguments of the `DownEncoder` of lips; `in_channels` is the clip's frames times their channels.
        calibration: as `calibrate` stores it; None for a network whose similarity is a probability.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        *,
        audio_encoder: dict[str, Any],
        visual_encoder: dict[str, Any],
        calibration: dict[str, float] | None = None,
    ):
        super().__init__()
        self._modules["audio_encoder"] = DownEncoder(**audio_encoder)
        self._modules["visual_encoder"] = DownEncoder(**visual_encoder)


class DownEncoder(nn.Module):
    """Returns (B, D, h, w) >= 0: residual blocks that shrink an image, some followed by attention.

    Args:
        in_channels: of the image.
        block_out_channels: channels after each residual block.
        downsample_factors: of each residual block, one number or (height, width).
        attn_blocks: 1 where an attention block follows the residual block, else 0.
        dropout: probability, inside the residual blocks.
        norm_num_groups: of every group norm, 32 in the released networks. Keep channels well above it where an image
            is 1x1: a group of two values only says which one is larger.
        attention_heads: 8 in the released networks.
    """

    gradient_checkpointing = False

    def __init__(
        self,
        *,
        in_channels: int,
        block_out_channels: Sequence[int],
        downsample_factors: Sequence[int | Sequence[int]],
        attn_blocks: Sequence[int],
        dropout: float,
        norm_num_groups: int = 32,
        attention_heads: int = 8,
    ):
        super().__init__()
        widths = [block_out_channels[0], *block_out_channels]
        self.conv_in = nn.Conv2d(in_channels, widths[0], kernel_size=3, padding=1)
        self.down_blocks = nn.ModuleList()
        blocks = zip(widths, block_out_channels, downsample_factors, attn_blocks, strict=False)
        for before, after, factor, has_attention in blocks:
            height, width = (factor, factor) if isinstance(factor, int) else factor
            self.down_blocks.append(ResidualDownBlock(before, after, (height, width), dropout, norm_num_groups))
            if has_attention:
                self.down_blocks.append(ImageAttention(after, attention_heads, norm_num_groups))
        self.norm_out = nn.GroupNorm(norm_num_groups, widths[-1], eps=NORM_EPS)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        hidden_BCHW = self.conv_in(images_BCHW)
        for block in self.down_blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                hidden_BCHW = checkpoint(block, hidden_BCHW, use_reentrant=False)
            else:
                hidden_BCHW = block(hidden_BCHW)
        return F.relu(self.norm_out(hidden_BCHW))


class ResidualDownBlock(nn.Module):
    """Returns the image after two convolutions around a skip, then shrunk by `factor` (height, width)."""

    def __init__(
        self, in_channels: int, out_channels: int, factor: tuple[int, int], dropout: float, norm_num_groups: int
    ):
        super().__init__()
        self.norm1 = nn.GroupNorm(norm_num_groups, in_channels, eps=NORM_EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.norm2 = nn.GroupNorm(norm_num_groups, out_channels, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        widens = in_channels != out_channels
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, kernel_size=1) if widens else nn.Identity()
        # Both sides where the size stays, else only right and bottom, as Stable Diffusion's VAE pads.
        height, width = ((1, 1) if step == 1 else (0, 1) for step in factor)
        self.padding = (*width, *height)
        shrinks = factor != _UNCHANGED
        self.downsample_conv = nn.Conv2d(out_channels, out_channels, kernel_size=3, stride=factor) if shrinks else None

    def forward(self, images_BCHW: Tensor) -> Tensor:
        hidden_BCHW = self.conv1(F.silu(self.norm1(images_BCHW)))
        hidden_BCHW = self.conv2(self.dropout(F.silu(self.norm2(hidden_BCHW))))
        hidden_BCHW = hidden_BCHW + self.conv_shortcut(images_BCHW)
        if self.downsample_conv is None:
            return hidden_BCHW
        return self.downsample_conv(F.pad(hidden_BCHW, self.padding))


class ImageAttention(nn.Module):
    """Returns the image after every pixel has looked at every other, around a skip."""

    def __init__(self, channels: int, heads: int, norm_num_groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(norm_num_groups, channels, eps=NORM_EPS)
        self.conv_in = nn.Conv2d(channels, channels, kernel_size=1)
        self.norm2 = nn.LayerNorm(channels)
        self.attn = Attention(query_dim=channels, heads=heads, dim_head=channels // heads, bias=True)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels, activation_fn="geglu")
        self.conv_out = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        height = images_BCHW.shape[2]
        pixels_BPD = rearrange(self.conv_in(self.norm1(images_BCHW)), "b d h w -> b (h w) d")
        pixels_BPD = pixels_BPD + self.attn(self.norm2(pixels_BPD))
        pixels_BPD = pixels_BPD + self.ff(self.norm3(pixels_BPD))
        return images_BCHW + self.conv_out(rearrange(pixels_BPD, "b (h w) d -> b d h w", h=height))
