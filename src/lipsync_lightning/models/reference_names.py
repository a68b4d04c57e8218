"""How released checkpoints name and configure what is named otherwise here: LatentSync's U-Net, OpenAI's Whisper."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from lipsync_lightning.errors import BadConfig

Names = Callable[[str], tuple[str, ...]]  # from our name of an entry to the released ones: it may be stored twice

# What the encoder needs of `dims`.
WHISPER_DIMS = ("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer")

_OUR_MOTION_MODULE = re.compile(r"(\bmotion_modules\.\d+)\.")
_MOTION_PARTS = {  # of a temporal module, our name: the reference's, which stores the table of positions twice
    ".pos_embed.pe": (".attention_blocks.0.pos_encoder.pe", ".attention_blocks.1.pos_encoder.pe"),
    ".attn1.": (".attention_blocks.0.",),
    ".attn2.": (".attention_blocks.1.",),
    ".norm1.": (".norms.0.",),
    ".norm2.": (".norms.1.",),
    ".norm3.": (".ff_norm.",),
}
_WHISPER_PARTS = {  # transformers' name within the encoder: OpenAI's
    "embed_positions.weight": "positional_embedding",
    "layer_norm.": "ln_post.",
    "layers.": "blocks.",
    "self_attn_layer_norm.": "attn_ln.",
    "self_attn.q_proj.": "attn.query.",
    "self_attn.k_proj.": "attn.key.",
    "self_attn.v_proj.": "attn.value.",
    "self_attn.out_proj.": "attn.out.",
    "final_layer_norm.": "mlp_ln.",
    "fc1.": "mlp.0.",
    "fc2.": "mlp.2.",
}

_UNET_FIXED = {  # what every released U-Net has and `LipSyncUNet` computes
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
# What may differ between released U-Nets: sizes that have the same name here, and the rest.
_UNET_SIZES = ("in_channels", "out_channels", "layers_per_block", "cross_attention_dim", "norm_num_groups")
_UNET_BLOCKS = ("block_out_channels", "down_block_types", "up_block_types", "attention_head_dim", "use_motion_module")
_UNET_MOTION = ("motion_module_decoder_only", "motion_module_resolutions", "motion_module_kwargs")
_MOTION_FIXED = {
    "num_transformer_block": 1,
    "attention_block_types": ["Temporal_Self", "Temporal_Self"],
    "temporal_position_encoding": True,
    "temporal_attention_dim_div": 1,
}
_HAS_ATTENTION = {"CrossAttnDownBlock3D": True, "DownBlock3D": False, "CrossAttnUpBlock3D": True, "UpBlock3D": False}


def unet_names(our_name: str) -> tuple[str, ...]:
    """Return the released names of an entry of `LipSyncUNet`; two for the table of positions."""
    name, num_found = _OUR_MOTION_MODULE.subn(r"\1.temporal_transformer.", our_name)
    part = next((part for part in _MOTION_PARTS if part in name), None) if num_found else None
    return tuple(name.replace(part, theirs) for theirs in _MOTION_PARTS[part]) if part else (name,)


def whisper_names(our_name: str) -> tuple[str]:
    """Return what OpenAI calls an entry of `WhisperAudioEncoder`; both names begin with `encoder.`."""
    for ours, theirs in _WHISPER_PARTS.items():
        our_name = our_name.replace(f".{ours}", f".{theirs}", 1)
    return (our_name,)


def renamed(state_dict: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Return our state dict under the released names (shared, not copied)."""
    return {name: tensor for ours, tensor in state_dict.items() for name in names(ours)}


def unet_arguments_from_reference(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `LipSyncUNet` that a released YAML file's `model` section describes.

    Raises: BadConfig, naming the values that no released U-Net has.
    """
    has_motion = bool(config.get("use_motion_module"))
    chosen = (*_UNET_SIZES, *_UNET_BLOCKS, *(_UNET_MOTION if has_motion else ()))
    require_section("a LatentSync U-Net", config, chosen, _UNET_FIXED, without_effect=(*_UNET_MOTION, "sample_size"))
    down, up = config["down_block_types"], config["up_block_types"]
    attention = tuple(_HAS_ATTENTION.get(block) for block in down)
    if None in attention or attention != tuple(_HAS_ATTENTION.get(block) for block in reversed(up)):
        known = sorted(_HAS_ATTENTION)
        raise BadConfig(f"down_block_types {down} and up_block_types {up} must mirror each other and be of {known}")
    arguments = {name: config[name] for name in _UNET_SIZES} | {
        "block_out_channels": tuple(config["block_out_channels"]),
        "attention": attention,
        "num_attention_heads": config["attention_head_dim"],  # the reference's name for a number of heads
        "motion": "none",
        "motion_num_attention_heads": config["attention_head_dim"],
    }
    if not has_motion:
        return arguments
    section, resolutions = config["motion_module_kwargs"], config["motion_module_resolutions"]
    kwargs = ("num_attention_heads", "temporal_position_encoding_max_len")
    require_section("a temporal module", section, kwargs, _MOTION_FIXED, without_effect=("zero_initialize",))
    levels = [2**level for level in range(len(down))]
    if not set(levels) <= set(resolutions):
        raise BadConfig(f"motion_module_resolutions are {resolutions}, the U-Net has {levels}; name all of them")
    return arguments | {
        "motion": "up" if config["motion_module_decoder_only"] else "all",
        "motion_num_attention_heads": section["num_attention_heads"],
        "motion_max_seq_length": section["temporal_position_encoding_max_len"],
    }


def require_section(
    network: str,
    section: Mapping[str, Any],
    chosen: Iterable[str],
    fixed: Mapping[str, Any],
    without_effect: Iterable[str] = (),
) -> None:
    """Raises: BadConfig, if a `chosen` key is missing, one differs from its `fixed` value, or one is unknown."""
    problems = [f"{key} is missing" for key in chosen if key not in section]
    problems += [f"{key} is unknown" for key in section if key not in {*chosen, *fixed, *without_effect}]
    differing = [key for key, value in fixed.items() if section.get(key, value) != value]
    problems += [f"{key} is {section[key]!r}, must be {fixed[key]!r}" for key in differing]
    if problems:
        raise BadConfig(f"this is not the configuration of {network}: {'; '.join(problems)}; give the checkpoint's own")
