"""What the released networks are, in the reference's own terms: the `model` sections of its YAML files.

Facts of LatentSync 1.5 and 1.6 (arXiv 2412.09262); `latentsync.py` takes such sections beside the weights.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from lipsync_lightning.errors import WrongWeights
from lipsync_lightning.models.recognition import stage
from lipsync_lightning.models.syncnet import StableSyncNet
from lipsync_lightning.models.unet import Motion

_MOTIONS: dict[tuple[bool, bool], Motion] = {(False, False): "none", (True, True): "all", (False, True): "up"}


def unet_config_of(names: Iterable[str]) -> dict[str, Any]:
    """Return the section of the released U-Net whose variant these names are. Raises: WrongWeights, if they are of none."""
    motion = _MOTIONS.get(stage(names))
    if motion is None:
        raise WrongWeights(
            "temporal modules on the way down but not up are in no released U-Net; give `model_config=` with the weights"
        )
    return unet_config(motion)


def syncnet_config_of(shapes: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the section of the released SyncNet that has these weights; of the best known one where none fits."""
    for config in SYNCNET_CONFIGS.values():
        with torch.device("meta"):
            expected = StableSyncNet(**config).state_dict()
        if {name: tensor.shape for name, tensor in expected.items()} == {
            name: tensor.shape for name, tensor in shapes.items()
        }:
            return config
    return SYNCNET_CONFIGS["16_pixel_attn"]


def unet_config(motion: Motion) -> dict[str, Any]:
    """Return the section of the released U-Nets: stage 1 ("none"), stage 2 ("all"), stage 2 efficient ("up")."""
    return {
        "in_channels": 13,
        "out_channels": 4,
        "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": ["CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"],
        "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D"],
        "layers_per_block": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 384,
        "norm_num_groups": 32,
        "use_motion_module": motion != "none",
        "motion_module_decoder_only": motion == "up",
        "motion_module_resolutions": [1, 2, 4, 8],
        "motion_module_kwargs": {"num_attention_heads": 8, "temporal_position_encoding_max_len": 24},
    }


def _encoder(
    in_channels: int, channels: list[int], factors: list[Any], attention_after: tuple[int, ...] = ()
) -> dict[str, Any]:
    return {
        "in_channels": in_channels,
        "block_out_channels": channels,
        "downsample_factors": factors,
        "attn_blocks": [int(index in attention_after) for index in range(len(channels))],
        "dropout": 0.0,
    }


_MEL_CHANNELS = [32, 64, 128, 256, 512, 1024, 2048]
_MEL_FACTORS = [[2, 1], 2, 2, 1, 2, 2, [2, 3]]
_LIPS_CHANNELS = [64, 128, 256, 256, 512, 1024, 2048, 2048]
_LIPS_FACTORS = [[1, 2], 2, 2, 2, 2, 2, 2, 2]

SYNCNET_CONFIGS: dict[str, dict[str, Any]] = {
    "16_pixel_attn": {  # the released `stable_syncnet.pt`
        "audio_encoder": _encoder(1, _MEL_CHANNELS, _MEL_FACTORS, attention_after=(3, 4)),
        "visual_encoder": _encoder(48, _LIPS_CHANNELS, _LIPS_FACTORS, attention_after=(4, 5)),
    },
    "16_pixel": {
        "audio_encoder": _encoder(1, _MEL_CHANNELS, _MEL_FACTORS),
        "visual_encoder": _encoder(48, _LIPS_CHANNELS, _LIPS_FACTORS),
    },
    "16_latent": {
        "audio_encoder": _encoder(1, [32, 64, 128, 256, 512, 1024], [[2, 1], 2, 2, 2, 2, [2, 3]]),
        "visual_encoder": _encoder(64, [64, 128, 256, 256, 512, 1024], [2, 2, 2, 1, 2, 2]),
    },
    "25_pixel": {
        "audio_encoder": _encoder(1, [64, 128, 256, 256, 512, 1024], [2, 2, 2, 2, 2, 2]),
        "visual_encoder": _encoder(75, [128, 128, 256, 256, 512, 512, 1024, 1024], _LIPS_FACTORS),
    },
}

VIDEOMAE_CONFIG: dict[str, Any] = {  # `vit_g_hybrid_pt_1200e_ssv2_ft.pth`
    "img_size": 224,
    "patch_size": 14,
    "embed_dim": 1408,
    "depth": 40,
    "num_heads": 16,
    "mlp_ratio": 48 / 11,
    "all_frames": 16,
    "tubelet_size": 2,
}
