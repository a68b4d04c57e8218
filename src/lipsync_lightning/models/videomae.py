"""VideoMAE-v2 (arXiv 2303.16727) as the yardstick of temporal consistency.

Parameter names are those of the released `vit_g_hybrid_pt_1200e_ssv2_ft.pth`, so that it loads without any mapping.
"""

from collections import OrderedDict
from typing import cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lipsync_lightning.errors import ClipMismatch

NORM_EPS = 1e-6  # of the released network
_POSITION_BASE = 10000.0  # Attention Is All You Need (arXiv 1706.03762), section 3.5


class VideoMAEFeatures(ModelMixin, ConfigMixin):
    """Returns one feature vector for each clip: the mean of a video transformer's tokens, normalised.

    Args:
        image_size, num_frames: of the clips it reads, whose frames are square.
        patch_size, tubelet_size: height and width of a token in pixels, and its frames.
        embed_dim: width of the tokens, and of the features.
        depth: number of transformer blocks; each has `num_heads` and a hidden width of `mlp_width`.
    """

    _supports_gradient_checkpointing = True
    gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_width: int,
        num_frames: int,
        tubelet_size: int,
    ):
        super().__init__()
        self.image_size = image_size
        self.patch_embed = TubeletEmbedding(patch_size=patch_size, tubelet_size=tubelet_size, embed_dim=embed_dim)
        self.blocks = nn.ModuleList(TransformerBlock(embed_dim, num_heads, mlp_width) for _ in range(depth))
        self.fc_norm = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.clip_shape = (num_frames, 3, image_size, image_size)
        num_tokens = (num_frames // tubelet_size) * (image_size // patch_size) ** 2
        self.register_buffer("positions_AD", sinusoidal_positions(num_tokens, embed_dim), persistent=False)
        self.positions_AD: Tensor

    def forward(self, video: Tensor) -> Tensor:
        """Return the features (B, embed_dim) of clips.

        Args:
            video: (B, T, 3, H, W) in [0, 1], of the `num_frames` and `image_size` it was built for.
        Raises: ClipMismatch, if the video has another shape.
        """
        if tuple(video.shape[1:]) != self.clip_shape:
            raise ClipMismatch(f"VideoMAE reads clips (B, T, C, H, W) of {self.clip_shape}, got {tuple(video.shape)}")
        tokens_BAD = self.patch_embed(video) + self.positions_AD
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                tokens_BAD = cast(Tensor, checkpoint(block, tokens_BAD, use_reentrant=False))
            else:
                tokens_BAD = block(tokens_BAD)
        return self.fc_norm(tokens_BAD.mean(dim=1))


class TubeletEmbedding(nn.Module):
    """Returns one token for every block of `tubelet_size` frames by `patch_size` squared pixels."""

    def __init__(self, *, patch_size: int, tubelet_size: int, embed_dim: int):
        super().__init__()
        block = (tubelet_size, patch_size, patch_size)
        self.proj = nn.Conv3d(3, embed_dim, kernel_size=block, stride=block)

    def forward(self, video_BTCHW: Tensor) -> Tensor:
        grid_BDTHW = self.proj(rearrange(video_BTCHW, "b t c h w -> b c t h w"))
        return rearrange(grid_BDTHW, "b d t h w -> b (t h w) d")


class TransformerBlock(nn.Module):
    """Returns the tokens after attention and an MLP, each around a skip and after a norm."""

    def __init__(self, embed_dim: int, num_heads: int, mlp_width: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.attn = SelfAttention(embed_dim, num_heads)
        self.norm2 = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        layers = {"fc1": nn.Linear(embed_dim, mlp_width), "gelu": nn.GELU(), "fc2": nn.Linear(mlp_width, embed_dim)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, tokens_BAD: Tensor) -> Tensor:
        tokens_BAD = tokens_BAD + self.attn(self.norm1(tokens_BAD))
        return tokens_BAD + self.mlp(self.norm2(tokens_BAD))


class SelfAttention(nn.Module):
    """Returns the tokens after each has looked at every other. Queries and values have a bias, keys have none."""

    def __init__(self, embed_dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(embed_dim))
        self.v_bias = nn.Parameter(torch.zeros(embed_dim))
        self.proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, tokens_BAD: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        stacked = F.linear(tokens_BAD, self.qkv.weight, bias)
        query, key, value = rearrange(stacked, "b a (three h d) -> three b h a d", three=3, h=self.num_heads)
        return self.proj(rearrange(F.scaled_dot_product_attention(query, key, value), "b h a d -> b a (h d)"))


def sinusoidal_positions(num_tokens: int, embed_dim: int) -> Tensor:
    """Return (num_tokens, embed_dim): sines in the even features, cosines in the odd ones.

    Source: Attention Is All You Need (arXiv 1706.03762), section 3.5. VideoMAE's are not trained and not in its file.
    """
    # On the CPU, as a constant has its values in a network on the meta device too.
    exponents_D = torch.arange(0, embed_dim, 2, dtype=torch.float64, device="cpu") / embed_dim
    positions_A = torch.arange(num_tokens, dtype=torch.float64, device="cpu")
    angles_AD = repeat(positions_A, "a -> a d", d=len(exponents_D)) / _POSITION_BASE**exponents_D
    return rearrange([angles_AD.sin(), angles_AD.cos()], "two a d -> a (d two)").float()
