"""How LatentSync names and configures what `LipSyncUNet` is."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.models.unet import Motion

_OUR_MOTION_MODULE = re.compile(r"(\bmotion_modules\.\d+)\.")
KEPT_POSITIONS = ".attention_blocks.0.pos_encoder.pe"
COPIED_POSITIONS = ".attention_blocks.1.pos_encoder.pe"  # the same table again: dropped
_MOTION_PARTS = {  # the reference's name: ours; the first that matches counts
    KEPT_POSITIONS: ".pos_embed.pe",
    ".attention_blocks.0.": ".attn1.",
    ".attention_blocks.1.": ".attn2.",
    ".norms.0.": ".norm1.",
    ".norms.1.": ".norm2.",
    ".ff_norm.": ".norm3.",
}

_FIXED = {  # what every released U-Net has and `LipSyncUNet` computes
    "act_fn": "silu",
    "add_audio_layer": True,
    "center_input_sample": False,
    "mid_block_type": "UNetMidBlock3DCrossAttn",
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "motion_module_mid_block": False,
    "motion_module_type": "Vanilla",
    "only_cross_attention": False,
    "dual_cross_attention": False,
    "use_linear_projection": False,
    "class_embed_type": None,
    "num_class_embeds": None,
    "upcast_attention": False,
}
_FIXED_MOTION = {
    "num_transformer_block": 1,
    "attention_block_types": ["Temporal_Self", "Temporal_Self"],
    "temporal_position_encoding": True,
    "temporal_attention_dim_div": 1,
}
_CHOSEN = (  # what may differ between released U-Nets
    "in_channels",
    "out_channels",
    "block_out_channels",
    "down_block_types",
    "up_block_types",
    "layers_per_block",
    "attention_head_dim",
    "cross_attention_dim",
    "norm_num_groups",
    "use_motion_module",
)
_ABOUT_MOTION = (
    "motion_module_decoder_only",
    "motion_module_resolutions",
    "motion_module_kwargs",
)  # of no meaning without it
_CHOSEN_MOTION = ("num_attention_heads", "temporal_position_encoding_max_len")
_WITHOUT_EFFECT = ("sample_size", "zero_initialize")  # on what a network with given weights computes
_HAS_ATTENTION = {"CrossAttnDownBlock3D": True, "DownBlock3D": False, "CrossAttnUpBlock3D": True, "UpBlock3D": False}


def unet_arguments_from_reference(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `LipSyncUNet` that a released YAML file's `model` section describes.

    Raises: BadConfig, naming the values that no released U-Net has.
    """
    motion = _motion(config)
    _check_section(
        config, _FIXED, needed=_CHOSEN if motion == "none" else (*_CHOSEN, *_ABOUT_MOTION), known=_ABOUT_MOTION
    )
    motion_arguments = {} if motion == "none" else _motion_arguments(config)
    attention = tuple(_has_attention(block) for block in config["down_block_types"])
    if attention != tuple(_has_attention(block) for block in reversed(config["up_block_types"])):
        raise BadConfig(
            f"up_block_types {config['up_block_types']} do not mirror down_block_types {config['down_block_types']}"
        )
    return {
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "block_out_channels": tuple(config["block_out_channels"]),
        "attention": attention,
        "layers_per_block": config["layers_per_block"],
        "num_attention_heads": config["attention_head_dim"],  # the reference's name for a number of heads
        "cross_attention_dim": config["cross_attention_dim"],
        "norm_num_groups": config["norm_num_groups"],
        "motion": motion,
        "motion_num_attention_heads": config["attention_head_dim"],
        **motion_arguments,
    }


def reference_names(our_name: str) -> tuple[str, ...]:
    """Return the released names of one of our entries; two for the table of positions, which the reference stores twice."""
    name, num_found = _OUR_MOTION_MODULE.subn(r"\1.temporal_transformer.", our_name)
    if num_found:
        for theirs, ours in _MOTION_PARTS.items():
            if ours in name:
                copies = (KEPT_POSITIONS, COPIED_POSITIONS) if theirs == KEPT_POSITIONS else (theirs,)
                return tuple(name.replace(ours, copy) for copy in copies)
    return (name,)


def named_as_reference(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return our U-Net's state dict under the released names (shared, not copied)."""
    return {name: tensor for ours, tensor in state_dict.items() for name in reference_names(ours)}


def _motion(config: Mapping[str, Any]) -> Motion:
    if not config.get("use_motion_module"):
        return "none"
    return "up" if config.get("motion_module_decoder_only") else "all"


def _motion_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    section = config["motion_module_kwargs"]
    _check_section(section, _FIXED_MOTION, needed=_CHOSEN_MOTION)
    levels = len(config["block_out_channels"])
    if not {2**level for level in range(levels)} <= set(config["motion_module_resolutions"]):
        raise BadConfig(
            f"motion_module_resolutions {config['motion_module_resolutions']} leave out some of the {levels} levels; name all"
        )
    return {
        "motion_num_attention_heads": section["num_attention_heads"],
        "motion_max_seq_length": section["temporal_position_encoding_max_len"],
    }


def _has_attention(block_type: str) -> bool:
    if block_type not in _HAS_ATTENTION:
        raise BadConfig(f"unknown block type {block_type!r}; the released U-Nets use {sorted(_HAS_ATTENTION)}")
    return _HAS_ATTENTION[block_type]


def _check_section(
    section: Mapping[str, Any], fixed: Mapping[str, Any], needed: tuple[str, ...], known: tuple[str, ...] = ()
) -> None:
    all_known = {*fixed, *needed, *known, *_WITHOUT_EFFECT}
    problems = [f"{key} is missing" for key in needed if key not in section]
    problems += [f"{key} is unknown" for key in section if key not in all_known]
    problems += [
        f"{key} is {section[key]!r}, must be {value!r}"
        for key, value in fixed.items()
        if section.get(key, value) != value
    ]
    if problems:
        raise BadConfig(
            f"this is not the `model` section of a LatentSync U-Net: {'; '.join(problems)}; use the YAML file of the checkpoint"
        )
