"""The one door for weights released by LatentSync: their names and configuration to and from this library's networks."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lipsync_lightning.errors import BadConfig, WrongWeights
from lipsync_lightning.models.unet import LipSyncUNet, Motion

_MOTION_MODULE = re.compile(r"(\bmotion_modules\.\d+)\.temporal_transformer\.")
_OUR_MOTION_MODULE = re.compile(r"(\bmotion_modules\.\d+)\.")
_KEPT_POSITIONS = ".attention_blocks.0.pos_encoder.pe"
_COPIED_POSITIONS = ".attention_blocks.1.pos_encoder.pe"  # the same table again: dropped
_MOTION_PARTS = {  # the reference's name: ours; the first that matches counts
    _KEPT_POSITIONS: ".pos_embed.pe",
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
    "motion_module_decoder_only",
    "motion_module_resolutions",
    "motion_module_kwargs",
)
_CHOSEN_MOTION = ("num_attention_heads", "temporal_position_encoding_max_len")
_WITHOUT_EFFECT = ("sample_size", "zero_initialize")  # on what a network with given weights computes
_HAS_ATTENTION = {"CrossAttnDownBlock3D": True, "DownBlock3D": False, "CrossAttnUpBlock3D": True, "UpBlock3D": False}
_NUM_LISTED = 10


def unet_from_reference(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> LipSyncUNet:
    """Return the U-Net that a released checkpoint describes, in eval mode and float32, on the weights' device.

    Args:
        state_dict: the checkpoint's `state_dict`, names as released; tensors that are float32 already are shared, not copied.
        config: the `model` section of the YAML file it was trained with, as a plain dict.
    Raises: WrongWeights, if names or shapes do not fit; BadConfig, if the configuration asks for what no released U-Net has.
    """
    arguments = unet_arguments_from_reference(config)
    with torch.device("meta"):
        unet = LipSyncUNet(**arguments)
    dropped = [key for key in state_dict if key.endswith(_COPIED_POSITIONS)]
    _check_copied_positions(state_dict, dropped)
    given = {_our_key(key): tensor.float() for key, tensor in state_dict.items() if not key.endswith(_COPIED_POSITIONS)}
    _compare_keys(expected=unet.state_dict(), given=given, dropped=dropped)
    unet.load_state_dict(given, assign=True)
    return unet.eval()


def unet_to_reference(unet: LipSyncUNet) -> dict[str, Tensor]:
    """Return the U-Net's weights under the names of the released checkpoints, bit for bit (shared, not copied)."""
    return {name: tensor for key, tensor in unet.state_dict().items() for name in _reference_keys(key)}


def load_matching(unet: nn.Module, state_dict: Mapping[str, Tensor], allowed_missing: tuple[str, ...] = ("motion_modules.",)) -> list[str]:
    """Load the weights into a U-Net and return the names it keeps as they were.

    Args:
        state_dict: weights under the network's own names.
        allowed_missing: weights whose name contains one of these may be absent: by default temporal modules, as when stage 2 starts from
            stage 1. Everything else has to be there, in the right shape, and nothing more.
    Raises: WrongWeights, if names or shapes do not fit.
    """
    expected = unet.state_dict()
    kept = [key for key in expected if key not in state_dict and any(part in key for part in allowed_missing)]
    _compare_keys(expected={key: tensor for key, tensor in expected.items() if key not in kept}, given=state_dict)
    unet.load_state_dict(dict(state_dict), strict=False)
    return kept


def unet_arguments_from_reference(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `LipSyncUNet` that a released YAML file's `model` section describes.

    Raises: BadConfig, naming the values that no released U-Net has.
    """
    _check_section(config, _FIXED, _CHOSEN)
    motion_config = config["motion_module_kwargs"]
    _check_section(motion_config, _FIXED_MOTION, _CHOSEN_MOTION)
    levels = len(config["block_out_channels"])
    attention = tuple(_has_attention(block) for block in config["down_block_types"])
    if attention != tuple(_has_attention(block) for block in reversed(config["up_block_types"])):
        raise BadConfig(f"up_block_types {config['up_block_types']} do not mirror down_block_types {config['down_block_types']}")
    motion = _motion(config)
    if motion != "none" and not {2**level for level in range(levels)} <= set(config["motion_module_resolutions"]):
        raise BadConfig(f"motion_module_resolutions {config['motion_module_resolutions']} leave out some of the {levels} levels; name all")
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
        "motion_num_attention_heads": motion_config["num_attention_heads"],
        "motion_max_seq_length": motion_config["temporal_position_encoding_max_len"],
    }


def _motion(config: Mapping[str, Any]) -> Motion:
    if not config["use_motion_module"]:
        return "none"
    return "up" if config["motion_module_decoder_only"] else "all"


def _has_attention(block_type: str) -> bool:
    if block_type not in _HAS_ATTENTION:
        raise BadConfig(f"unknown block type {block_type!r}; the released U-Nets use {sorted(_HAS_ATTENTION)}")
    return _HAS_ATTENTION[block_type]


def _check_section(section: Mapping[str, Any], fixed: Mapping[str, Any], chosen: tuple[str, ...]) -> None:
    known = {*fixed, *chosen, *_WITHOUT_EFFECT}
    problems = [f"{key} is missing" for key in chosen if key not in section]
    problems += [f"{key} is unknown" for key in section if key not in known]
    problems += [f"{key} is {section[key]!r}, must be {value!r}" for key, value in fixed.items() if section.get(key, value) != value]
    if problems:
        raise BadConfig(
            f"this is not the `model` section of a LatentSync U-Net: {'; '.join(problems)}; use the YAML file of the checkpoint"
        )


def _our_key(reference_key: str) -> str:
    key, num_found = _MOTION_MODULE.subn(r"\1.", reference_key)
    if num_found:
        for theirs, ours in _MOTION_PARTS.items():
            if theirs in key or key.endswith(theirs):
                return key.replace(theirs, ours)
    return key


def _reference_keys(our_key: str) -> list[str]:
    """The released name of one of our entries; two for the table of positions, which the reference stores twice."""
    key, num_found = _OUR_MOTION_MODULE.subn(r"\1.temporal_transformer.", our_key)
    if num_found:
        for theirs, ours in _MOTION_PARTS.items():
            if ours in key:
                copies = (_KEPT_POSITIONS, _COPIED_POSITIONS) if theirs == _KEPT_POSITIONS else (theirs,)
                return [key.replace(ours, name) for name in copies]
    return [key]


def _check_copied_positions(state_dict: Mapping[str, Tensor], copies: list[str]) -> None:
    """Dropping a second table of positions is right only while it equals the first."""
    for copy in copies:
        kept = state_dict.get(copy.replace(_COPIED_POSITIONS, _KEPT_POSITIONS))
        if kept is not None and not kept.is_meta and not torch.equal(kept, state_dict[copy]):
            raise WrongWeights(f"{copy} differs from the table of positions before it; a LatentSync U-Net has the same in both")


def _compare_keys(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], dropped: Iterable[str] = ()) -> None:
    """Raises: WrongWeights, listing what is missing, unexpected or misshapen, and what was left out on purpose."""
    missing = [key for key in expected if key not in given]
    unexpected = [key for key in given if key not in expected]
    misshapen = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in given and given[key].shape != tensor.shape
    ]
    if not (missing or unexpected or misshapen):
        return
    parts = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen, "left out on purpose": list(dropped)}
    listing = "\n".join(f"  {len(keys)} {what}: {_shortened(keys)}" for what, keys in parts.items() if keys)
    raise WrongWeights(
        f"these weights do not fit the network ({len(expected)} entries expected, {len(given)} given):\n{listing}\n"
        "give the weights that belong to this configuration, or the configuration that belongs to these weights"
    )


def _shortened(keys: list[str]) -> str:
    return ", ".join(keys[:_NUM_LISTED]) + (", ..." if len(keys) > _NUM_LISTED else "")
