"""The one door for released weights: each function returns this library's network of a state dict, or refuses it.

All of them are strict: every name is used or dropped on purpose, every shape fits. Prefixes of DistributedDataParallel
and torch.compile are left out; half-precision weights become float32, which changes no value; float64 stays.
The networks come in eval mode, on the weights' device, and share the tensors they were given.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lipsync_lightning.errors import BadConfig, WrongWeights
from lipsync_lightning.models.audio_encoder import WhisperAudioEncoder
from lipsync_lightning.models.hyperiqa import HyperIQA
from lipsync_lightning.models.judge_syncnet import JudgeSyncNet
from lipsync_lightning.models.reference_names import (
    WHISPER_DIMS,
    Names,
    renamed,
    require_section,
    unet_arguments_from_reference,
    unet_names,
    whisper_names,
)
from lipsync_lightning.models.syncnet import StableSyncNet
from lipsync_lightning.models.unet import LipSyncUNet
from lipsync_lightning.models.videomae import VideoMAEFeatures
from lipsync_lightning.models.weights_io import Network, filled, plain_weights, require_match

_REFERENCE_MOTION_GROUPS = 32
_VIDEOMAE_SIZES = ("patch_size", "embed_dim", "depth", "num_heads", "tubelet_size")  # that have the same name here
_VIDEOMAE_FIXED = {"qkv_bias": True, "use_mean_pooling": True, "layer_norm_eps": 1e-6}

log = logging.getLogger(__name__)


def unet_from_reference(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> LipSyncUNet:
    """Return the U-Net of a `latentsync_unet.pt`.

    Args:
        state_dict: the checkpoint's `state_dict`, names as released.
        config: the `model` section of the YAML file it was trained with, as a plain dict.
    Raises: WrongWeights, if names or shapes do not fit; BadConfig, if no released U-Net is configured so.
    """
    build = partial(LipSyncUNet, **unet_arguments_from_reference(config))
    return _loaded(build, state_dict, "LatentSync's U-Net", unet_names)


def unet_to_reference(unet: LipSyncUNet) -> dict[str, Tensor]:
    """Return the U-Net's weights under the names of the released checkpoints, bit for bit (shared, not copied).

    Raises: BadConfig, if the reference could not compute what this U-Net does.
    """
    groups, expected = unet.config["motion_norm_num_groups"], _REFERENCE_MOTION_GROUPS
    if unet.config["motion"] != "none" and groups != expected:
        raise BadConfig(f"the temporal modules have {groups} groups in their norm, the reference's always {expected}")
    return renamed(unet.state_dict(), unet_names)


def syncnet_from_reference(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> StableSyncNet:
    """Return the StableSyncNet of a `stable_syncnet.pt`; `net(frames, mel)` gives unit embeddings of both.

    Args:
        state_dict: the checkpoint's `state_dict`, names as released.
        config: the `model` section of its YAML file: `audio_encoder` and `visual_encoder`; no `attn_blocks` means none.
    Raises: WrongWeights, if names or shapes do not fit; BadConfig, if the configuration is not a StableSyncNet's.
    """
    require_section("a StableSyncNet", config, ("audio_encoder", "visual_encoder"), {})
    encoders = {
        name: {"attn_blocks": [0] * len(section.get("block_out_channels", ())), **section}
        for name, section in config.items()
    }
    return _loaded(partial(StableSyncNet, **encoders), state_dict, "StableSyncNet")


def syncnet_to_reference(syncnet: StableSyncNet) -> dict[str, Tensor]:
    """Return the SyncNet's weights under the names of the released checkpoints, bit for bit (shared, not copied)."""
    return dict(syncnet.state_dict())


def whisper_encoder_from_reference(state_dict: Mapping[str, Tensor], dims: Mapping[str, Any]) -> WhisperAudioEncoder:
    """Return the encoder of an OpenAI Whisper such as `tiny.pt`; the decoder is dropped.

    Args: state_dict, dims: the checkpoint's `model_state_dict` and `dims`.
    Raises: WrongWeights, if names or shapes do not fit; BadConfig, if `dims` are not those of a Whisper.
    """
    require_section("Whisper", dims, WHISPER_DIMS, {}, without_effect=dims)  # the other ones are the decoder's
    build = partial(WhisperAudioEncoder, **{name: int(dims[name]) for name in WHISPER_DIMS})
    return _loaded(build, state_dict, "Whisper's encoder", whisper_names, dropped=("decoder.",))


def videomae_from_reference(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> VideoMAEFeatures:
    """Return the features of a VideoMAE-v2; its classifier of actions is dropped.

    Args:
        state_dict: names as released.
        config: what the network was built with, in its authors' terms; see `released.VIDEOMAE_CONFIG`.
    Raises: WrongWeights, if names or shapes do not fit; BadConfig, if the configuration is not VideoMAE-v2's.
    """
    chosen = (*_VIDEOMAE_SIZES, "img_size", "all_frames", "mlp_ratio")
    require_section("a VideoMAE-v2", config, chosen, _VIDEOMAE_FIXED, ("num_classes", "drop_path_rate"))
    arguments = {name: config[name] for name in _VIDEOMAE_SIZES}
    arguments |= {"image_size": config["img_size"], "num_frames": config["all_frames"]}
    arguments |= {"mlp_width": int(config["embed_dim"] * config["mlp_ratio"])}
    return _loaded(partial(VideoMAEFeatures, **arguments), state_dict, "VideoMAE", dropped=("head.",))


def judge_syncnet_from_reference(state_dict: Mapping[str, Tensor]) -> JudgeSyncNet:
    """Return the evaluation SyncNet of a `syncnet_v2.model`. Raises: WrongWeights, if names or shapes do not fit."""
    return _loaded(JudgeSyncNet, state_dict, "the evaluation SyncNet")


def hyperiqa_from_reference(state_dict: Mapping[str, Tensor]) -> HyperIQA:
    """Return the picture judge of a `koniq_pretrained.pkl`. Raises: WrongWeights, if names or shapes do not fit."""
    return _loaded(HyperIQA, state_dict, "HyperIQA")


def _loaded(
    build: Callable[[], Network],
    state_dict: Mapping[str, Tensor],
    network: str,
    names: Names = lambda ours: (ours,),
    dropped: tuple[str, ...] = (),
) -> Network:
    """Return the network that `build` makes, with all weights but those that begin with one of `dropped`."""
    try:
        with torch.device("meta"):
            expected = build().state_dict()
    except (TypeError, KeyError, ValueError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadConfig(f"no {network} can be made of this configuration ({reason}); give the checkpoint's") from error
    weights = plain_weights(state_dict)
    left_out = [name for name in weights if name.startswith(dropped)]
    if left_out:
        log.info("left out on purpose: %d entries, such as %s", len(left_out), left_out[0])
    kept = {name: tensor for name, tensor in weights.items() if name not in left_out}
    require_match(renamed(expected, names), kept, network)
    for first, *copies in map(names, expected):
        for copy in copies:
            if not kept[first].is_meta and not torch.equal(kept[first], kept[copy]):
                raise WrongWeights(f"{copy} differs from {first}; {network} has the same in both, get the file again")
    return filled(build, {ours: kept[names(ours)[0]] for ours in expected})
