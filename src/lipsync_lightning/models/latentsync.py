"""The one door for released weights: each function takes a state dict and returns this library's network, or refuses with the reason.

All of them are strict: every name is used or dropped on purpose, every shape fits. Names that DistributedDataParallel or torch.compile
put a prefix before are read without it; half-precision weights become float32, which changes no value; float64 stays.
The networks come in eval mode, on the weights' device, and share the tensors they were given.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lipsync_lightning.errors import BadConfig, WrongWeights
from lipsync_lightning.models.audio_encoder import WhisperAudioEncoder
from lipsync_lightning.models.hyperiqa import HyperIQA
from lipsync_lightning.models.judge_syncnet import JudgeSyncNet
from lipsync_lightning.models.matching import Network, filled, plain_weights, require_match
from lipsync_lightning.models.reference_unet import (
    COPIED_POSITIONS,
    KEPT_POSITIONS,
    named_as_reference,
    reference_names,
    unet_arguments_from_reference,
)
from lipsync_lightning.models.reference_whisper import DIMS, DROPPED_PREFIX, named_as_openai, openai_name
from lipsync_lightning.models.syncnet import StableSyncNet
from lipsync_lightning.models.unet import LipSyncUNet
from lipsync_lightning.models.videomae import DROPPED_KEYS, VideoMAEFeatures

_REFERENCE_MOTION_GROUPS = 32
_FIXED_VIDEOMAE = {"qkv_bias": True, "use_mean_pooling": True, "layer_norm_eps": 1e-6}  # of every released VideoMAE-v2
_VIDEOMAE_WITHOUT_EFFECT = ("num_classes", "drop_path_rate")  # on features in eval mode

log = logging.getLogger(__name__)


def unet_from_reference(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> LipSyncUNet:
    """Return the U-Net of a `latentsync_unet.pt`.

    Args:
        state_dict: the checkpoint's `state_dict`, names as released.
        config: the `model` section of the YAML file it was trained with, as a plain dict.
    Raises: WrongWeights, if names or shapes do not fit; BadConfig, if the configuration asks for what no released U-Net has.
    """
    build = partial(LipSyncUNet, **unet_arguments_from_reference(config))
    weights = plain_weights(state_dict)
    expected = _state_dict_of(build)
    dropped = [key for key in weights if key.endswith(COPIED_POSITIONS)]
    require_match(named_as_reference(expected), weights, "LatentSync's U-Net", dropped)
    _check_copied_positions(weights, dropped)
    _log_dropped(dropped)
    return filled(build, {ours: weights[reference_names(ours)[0]] for ours in expected})


def unet_to_reference(unet: LipSyncUNet) -> dict[str, Tensor]:
    """Return the U-Net's weights under the names of the released checkpoints, bit for bit (shared, not copied).

    Raises: BadConfig, if the reference could not compute what this U-Net does.
    """
    groups = unet.config["motion_norm_num_groups"]
    if unet.config["motion"] != "none" and groups != _REFERENCE_MOTION_GROUPS:
        raise BadConfig(
            f"this U-Net's temporal modules have {groups} groups in their norm, the reference's always {_REFERENCE_MOTION_GROUPS}"
        )
    return named_as_reference(unet.state_dict())


def syncnet_from_reference(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> StableSyncNet:
    """Return the StableSyncNet of a `stable_syncnet.pt`; `net(frames, mel)` gives unit embeddings of both.

    Args:
        state_dict: the checkpoint's `state_dict`, names as released.
        config: the `model` section of its YAML file: `audio_encoder` and `visual_encoder`. Where `attn_blocks` is not given there are none.
    Raises: WrongWeights, if names or shapes do not fit; BadConfig, if the configuration is not that of a StableSyncNet.
    """
    if set(config) != {"audio_encoder", "visual_encoder"}:
        raise BadConfig(
            f"a StableSyncNet is configured by audio_encoder and visual_encoder, found {sorted(config)}; give its `model` section"
        )
    encoders = {
        name: {"attn_blocks": [0] * len(section.get("block_out_channels", ())), **section}
        for name, section in config.items()
    }
    return _same_names(partial(StableSyncNet, **encoders), plain_weights(state_dict), "StableSyncNet")


def syncnet_to_reference(syncnet: StableSyncNet) -> dict[str, Tensor]:
    """Return the SyncNet's weights under the names of the released checkpoints, bit for bit (shared, not copied)."""
    return dict(syncnet.state_dict())


def whisper_encoder_from_reference(state_dict: Mapping[str, Tensor], dims: Mapping[str, Any]) -> WhisperAudioEncoder:
    """Return the encoder of an OpenAI Whisper such as `tiny.pt`; the decoder is dropped.

    Args: state_dict, dims: the checkpoint's `model_state_dict` and `dims`.
    Raises: WrongWeights, if names or shapes do not fit; BadConfig, if `dims` are not those of a Whisper.
    """
    missing = [name for name in DIMS if name not in dims]
    if missing:
        raise BadConfig(f"Whisper's dims lack {missing}, found {sorted(dims)}; give the `dims` of the checkpoint")
    build = partial(WhisperAudioEncoder, **{name: int(dims[name]) for name in DIMS})
    weights = plain_weights(state_dict)
    dropped = [key for key in weights if key.startswith(DROPPED_PREFIX)]
    kept = {key: tensor for key, tensor in weights.items() if not key.startswith(DROPPED_PREFIX)}
    expected = _state_dict_of(build)
    require_match(named_as_openai(expected), kept, "Whisper's encoder", dropped)
    _log_dropped(dropped)
    return filled(build, {ours: kept[openai_name(ours)] for ours in expected})


def videomae_from_reference(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> VideoMAEFeatures:
    """Return the features of a VideoMAE-v2; its classifier of actions is dropped.

    Args:
        state_dict: names as released.
        config: what the network was built with, in its authors' terms: `img_size`, `patch_size`, `embed_dim`, `depth`, `num_heads`,
            `mlp_ratio`, `all_frames`, `tubelet_size`.
    Raises: WrongWeights, if names or shapes do not fit; BadConfig, if the configuration asks for what VideoMAE-v2 has not.
    """
    build = partial(VideoMAEFeatures, **_videomae_arguments(config))
    weights = plain_weights(state_dict)
    dropped = [key for key in weights if key in DROPPED_KEYS]
    kept = {key: tensor for key, tensor in weights.items() if key not in DROPPED_KEYS}
    _log_dropped(dropped)
    return _same_names(build, kept, "VideoMAE", dropped)


def judge_syncnet_from_reference(state_dict: Mapping[str, Tensor]) -> JudgeSyncNet:
    """Return the evaluation SyncNet of a `syncnet_v2.model`. Raises: WrongWeights, if names or shapes do not fit."""
    return _same_names(JudgeSyncNet, plain_weights(state_dict), "the evaluation SyncNet")


def hyperiqa_from_reference(state_dict: Mapping[str, Tensor]) -> HyperIQA:
    """Return the visual-quality network of a `koniq_pretrained.pkl`. Raises: WrongWeights, if names or shapes do not fit."""
    return _same_names(HyperIQA, plain_weights(state_dict), "HyperIQA")


def _same_names(
    build: Callable[[], Network], weights: dict[str, Tensor], network: str, dropped: Sequence[str] = ()
) -> Network:
    require_match(_state_dict_of(build), weights, network, dropped)
    return filled(build, weights)


def _state_dict_of(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """Names and shapes of the network that `build` would make. Raises: BadConfig, if it cannot be made."""
    try:
        with torch.device("meta"):
            return build().state_dict()
    except (TypeError, KeyError, ValueError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadConfig(
            f"no such network can be made of this configuration: {reason}; give the checkpoint's own"
        ) from error


def _log_dropped(dropped: list[str]) -> None:
    if dropped:
        log.info("left out on purpose: %d entries, such as %s", len(dropped), dropped[0])


def _check_copied_positions(weights: Mapping[str, Tensor], copies: list[str]) -> None:
    """Raises: WrongWeights: dropping a second table of positions is right only while it equals the first."""
    for copy in copies:
        kept = weights[copy.replace(COPIED_POSITIONS, KEPT_POSITIONS)]
        if not kept.is_meta and not torch.equal(kept, weights[copy]):
            raise WrongWeights(
                f"{copy} differs from the table of positions before it; a LatentSync U-Net has the same in both"
            )


def _videomae_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    chosen = {"img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "all_frames", "tubelet_size"}
    problems = [f"{key} is missing" for key in sorted(chosen - set(config))]
    problems += [
        f"{key} is unknown" for key in config if key not in {*chosen, *_FIXED_VIDEOMAE, *_VIDEOMAE_WITHOUT_EFFECT}
    ]
    problems += [
        f"{key} is {config[key]!r}, must be {value!r}"
        for key, value in _FIXED_VIDEOMAE.items()
        if config.get(key, value) != value
    ]
    if not problems:
        parts = {"num_heads": "embed_dim", "patch_size": "img_size", "tubelet_size": "all_frames"}
        uneven = {part: whole for part, whole in parts.items() if config[whole] % config[part]}
        problems = [f"{part} {config[part]} does not divide {whole} {config[whole]}" for part, whole in uneven.items()]
    if problems:
        raise BadConfig(
            f"this is not the configuration of a VideoMAE-v2: {'; '.join(problems)}; give what it was built with"
        )
    return {
        "image_size": config["img_size"],
        "patch_size": config["patch_size"],
        "embed_dim": config["embed_dim"],
        "depth": config["depth"],
        "num_heads": config["num_heads"],
        "mlp_width": int(config["embed_dim"] * config["mlp_ratio"]),
        "num_frames": config["all_frames"],
        "tubelet_size": config["tubelet_size"],
    }
