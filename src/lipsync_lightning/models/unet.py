"""The denoising U-Net: Stable Diffusion's shape, made to read a clip of frames and its audio tokens.

Built on diffusers' `UNetMotionModel`; what differs from it is what LatentSync (arXiv 2412.09262) computes.
Keyword names of inner modules (`input_tensor`, `hidden_states`, ...) are the ones diffusers' blocks call them by.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  pipelines look for a class's base in its module
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D, UNetMotionModel
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lipsync_lightning.errors import BadConfig, WrongWeights

Motion = Literal["none", "all", "up"]

_MOST_SEQUENCES = 65_535  # in one call of CUDA's attention kernels: 16 windows of 512 x 512 have one more
_HAS_MOTION = {"none": (False, False), "all": (True, True), "up": (False, True)}  # on the way (down, up)


class LipSyncUNet(UNetMotionModel):
    """Predicts the noise (or velocity) of a clip of latents, given conditioning channels and audio tokens per frame.

    One class for every stage, told apart by `motion`. `enable_gradient_checkpointing()` covers temporal modules too.

    Args:
        in_channels: of `sample`; 13 = noisy latents 4, keep mask 1, masked latents 4, reference latents 4.
        out_channels: latent channels.
        block_out_channels: width of each level, finest first.
        attention: for each level, whether it has spatial and audio cross-attention. The mid block always has.
        layers_per_block: residual blocks of a level on the way down; one more on the way up.
        num_attention_heads: of spatial and cross-attention.
        cross_attention_dim: width D of an audio token.
        norm_num_groups: groups of every norm outside the temporal modules.
        motion: where temporal modules are: "none" (stage 1), "all" levels (stage 2), or "up" (stage 2 efficient).
        motion_num_attention_heads, motion_norm_num_groups: of the temporal self-attention, and of its first norm.
        motion_max_seq_length: the most frames a clip may have where there are temporal modules.
    Raises: BadConfig, if these numbers do not fit together.
    Source: LatentSync, section 3.1, and its released networks. Those start `conv_in` at zero too; from scratch that
    would blind the network until `conv_out` has moved. Here only `conv_out` and the temporal `proj_out` start at zero:
    an untrained network predicts 0, and adding temporal modules to a trained one changes nothing at first.
    """

    @register_to_config
    def __init__(
        self,
        *,
        block_out_channels: tuple[int, ...],
        attention: tuple[bool, ...],
        layers_per_block: int,
        num_attention_heads: int,
        cross_attention_dim: int,
        norm_num_groups: int,
        motion: Motion,
        motion_num_attention_heads: int,
        in_channels: int = 13,
        out_channels: int = 4,
        motion_max_seq_length: int = 24,
        motion_norm_num_groups: int = 32,
    ) -> None:
        _require_fitting(self.config)
        own_config = self.config
        motion_down, motion_up = _HAS_MOTION[motion]
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            down_block_types=tuple("CrossAttnDownBlockMotion" if has else "DownBlockMotion" for has in attention),
            up_block_types=tuple("CrossAttnUpBlockMotion" if has else "UpBlockMotion" for has in reversed(attention)),
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
            cross_attention_dim=cross_attention_dim,
            num_attention_heads=num_attention_heads,
            temporal_transformer_layers_per_block=int(motion_down),
            reverse_temporal_transformer_layers_per_block=int(motion_up),  # pyright: ignore[reportArgumentType]
            motion_num_attention_heads=motion_num_attention_heads if motion != "none" else 1,
            motion_max_seq_length=motion_max_seq_length,
            use_motion_mid_block=False,
        )
        # The parent registers its own arguments as well; a saved config must hold exactly what this constructor takes.
        self._internal_dict = own_config
        for block in (*self.down_blocks, self.mid_block, *self.up_blocks):
            stock_resnets = cast(Iterable[ResnetBlock2D], block.resnets)
            block.resnets = nn.ModuleList(ClipResnet(stock) for stock in stock_resnets)
        for block in (*self.down_blocks, *self.up_blocks):
            stock_modules = cast(Iterable[AnimateDiffTransformer3D], block.motion_modules)
            block.motion_modules = nn.ModuleList(
                TemporalTransformer(stock, motion_norm_num_groups) if len(stock.transformer_blocks) else NoTemporal()
                for stock in stock_modules
            )
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, sample: Tensor, timestep: Tensor | float, audio: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the prediction for every latent of the clip.

        Args:
            sample: (B, in_channels, T, H, W).
            timestep: (B,) or a single number, in scheduler steps.
            audio: (B, T, A, D), audio tokens of each frame.
        Returns: (B, out_channels, T, H, W).
        Raises: BadConfig, if there are temporal modules and T exceeds `motion_max_seq_length`.
        """
        num_frames, longest = sample.shape[2], self.config["motion_max_seq_length"]
        if self.config["motion"] != "none" and num_frames > longest:
            way_out = "use shorter clips, or train with a larger motion_max_seq_length"
            raise BadConfig(f"the clip has {num_frames} frames, the U-Net knows positions for {longest}; {way_out}")
        timestep_B = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        time_BD = self.time_embedding(self.time_proj(timestep_B).to(self.conv_in.weight.dtype))  # one per clip
        audio_NAD = rearrange(audio, "b t a d -> (b t) a d")
        hidden_NCHW = rearrange(sample, "b c t h w -> (b t) c h w").contiguous(memory_format=torch.channels_last)
        hidden_NCHW = self.conv_in(hidden_NCHW)
        if torch.is_grad_enabled() and not hidden_NCHW.requires_grad:
            # torch 2.11 on a CPU crashes in the backward of a channels-last GroupNorm whose input needs no gradient.
            hidden_NCHW.requires_grad_()
        skips = (hidden_NCHW,)
        num_skips = self.config["layers_per_block"] + 1
        for block in self.down_blocks:
            hidden_NCHW, block_skips = block(
                hidden_NCHW, temb=time_BD, num_frames=num_frames, **_audio_argument(block, audio_NAD)
            )
            skips += block_skips
        hidden_NCHW = self.mid_block(hidden_NCHW, time_BD, encoder_hidden_states=audio_NAD)
        for block in self.up_blocks:
            block_skips, skips = skips[-num_skips:], skips[:-num_skips]
            hidden_NCHW = block(
                hidden_NCHW,
                res_hidden_states_tuple=block_skips,
                temb=time_BD,
                upsample_size=tuple(skips[-1].shape[2:]) if skips else None,
                num_frames=num_frames,
                **_audio_argument(block, audio_NAD),
            )
        assert self.conv_norm_out is not None
        hidden_NCHW = clip_group_norm(self.conv_norm_out, hidden_NCHW, num_clips=sample.shape[0])
        return rearrange(self.conv_out(F.silu(hidden_NCHW)), "(b t) c h w -> b c t h w", t=num_frames)


class ClipResnet(nn.Module):
    """A residual block whose norms take their statistics over all frames of a clip; one time embedding per clip.

    Takes over the parts of a diffusers block, under the same names.
    """

    def __init__(self, stock: ResnetBlock2D) -> None:
        super().__init__()
        assert stock.time_emb_proj is not None
        self.norm1, self.conv1, self.time_emb_proj = stock.norm1, stock.conv1, stock.time_emb_proj
        self.norm2, self.conv2, self.conv_shortcut = stock.norm2, stock.conv2, stock.conv_shortcut

    def forward(self, input_tensor: Tensor, temb: Tensor) -> Tensor:
        """Return (N, C', H, W), from frames (N, C, H, W) and time embeddings (B, D); N is a multiple of B."""
        num_clips = temb.shape[0]
        hidden_NCHW = self.conv1(F.silu(clip_group_norm(self.norm1, input_tensor, num_clips)))
        shift_BC = self.time_emb_proj(F.silu(temb))
        shift_NC = shift_BC.repeat_interleave(hidden_NCHW.shape[0] // num_clips, dim=0)
        hidden_NCHW = hidden_NCHW + shift_NC[:, :, None, None]
        hidden_NCHW = self.conv2(F.silu(clip_group_norm(self.norm2, hidden_NCHW, num_clips)))
        return hidden_NCHW + (input_tensor if self.conv_shortcut is None else self.conv_shortcut(input_tensor))


class TemporalTransformer(nn.Module):
    """Self-attention over the frames of a clip, at each position on its own, added to what comes in.

    Takes over the parts of a diffusers module, under the same names. Its first norm is per frame, with its own groups.
    """

    def __init__(self, stock: AnimateDiffTransformer3D, num_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_groups, stock.norm.num_channels, eps=stock.norm.eps)
        self.proj_in, self.transformer_blocks, self.proj_out = stock.proj_in, stock.transformer_blocks, stock.proj_out
        for parameter in self.proj_out.parameters():
            nn.init.zeros_(parameter)
        self.gradient_checkpointing = False

    def forward(self, hidden_states: Tensor, num_frames: int) -> Tensor:
        """Return (N, C, H, W), from frames of the same shape; N is a multiple of `num_frames`."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(self._attend, hidden_states, num_frames, use_reentrant=False))
        return self._attend(hidden_states, num_frames)

    def _attend(self, frames_NCHW: Tensor, num_frames: int) -> Tensor:
        height, width = frames_NCHW.shape[-2:]
        hidden_PTC = self.proj_in(rearrange(self.norm(frames_NCHW), "(b t) c h w -> (b h w) t c", t=num_frames))
        for block in self.transformer_blocks:
            pieces = hidden_PTC.split(_MOST_SEQUENCES)
            hidden_PTC = block(hidden_PTC) if len(pieces) == 1 else torch.cat([block(piece) for piece in pieces])
        hidden_PTC = self.proj_out(hidden_PTC)
        return frames_NCHW + rearrange(hidden_PTC, "(b h w) t c -> (b t) c h w", h=height, w=width)


class NoTemporal(nn.Module):
    """Returns what comes in: stands where a variant has no temporal module."""

    def forward(self, hidden_states: Tensor, num_frames: int) -> Tensor:
        return hidden_states


def clip_group_norm(norm: nn.GroupNorm, frames_NCHW: Tensor, num_clips: int) -> Tensor:
    """Return (N, C, H, W), normalised with statistics over the frames of each clip together.

    In the channels-last memory format, which the U-Net works in, neither rearrangement copies.
    """
    num_frames = frames_NCHW.shape[0] // num_clips
    stacked = norm(rearrange(frames_NCHW, "(b t) c h w -> b c (t h) w", b=num_clips))
    return rearrange(stacked, "b c (t h) w -> (b t) c h w", t=num_frames)


def _audio_argument(block: nn.Module, audio_NAD: Tensor) -> dict[str, Any]:
    return {"encoder_hidden_states": audio_NAD} if getattr(block, "has_cross_attention", False) else {}


def _require_fitting(config: Mapping[str, Any]) -> None:
    if config["motion"] not in _HAS_MOTION:
        raise BadConfig(f"motion must be one of {sorted(_HAS_MOTION)}, not {config['motion']!r}")
    of_motion = ("motion_num_attention_heads", "motion_norm_num_groups") if config["motion"] != "none" else ()
    for name in ("num_attention_heads", "norm_num_groups", *of_motion):
        uneven = [channels for channels in config["block_out_channels"] if channels % config[name]]
        if uneven:
            widths = f"the widths {uneven} of block_out_channels"
            raise BadConfig(f"{name} = {config[name]} does not divide {widths}; change one")


def require_fitting_latents(unet: LipSyncUNet, autoencoder: Any) -> None:
    """Raises: WrongWeights, unless a U-Net reads the mask and three times the latents of a `models.Autoencoder`."""
    taken, channels = unet.config["in_channels"], autoencoder.latent_channels
    if taken != 3 * channels + 1:
        made = f"latents of {channels} channels make {3 * channels + 1} with the mask"
        raise WrongWeights(f"the U-Net takes {taken} channels, {made}; give two that belong together")
