"""The networks of LatentSync 1.5 and 1.6 (arXiv 2412.09262) in the files their authors released.

A `config` is the `model` section of the YAML file that a checkpoint was trained with; by default the released one's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from lipsync_lightning.errors import MissingWeights, WrongWeights
from lipsync_lightning.models import latentsync
from lipsync_lightning.models.audio_encoder import WhisperAudioEncoder
from lipsync_lightning.models.autoencoder import StableDiffusionAutoencoder
from lipsync_lightning.models.hyperiqa import HyperIQA
from lipsync_lightning.models.judge_syncnet import JudgeSyncNet
from lipsync_lightning.models.syncnet import StableSyncNet
from lipsync_lightning.models.unet import LipSyncUNet, Motion
from lipsync_lightning.models.videomae import VideoMAEFeatures
from lipsync_lightning.models.weights_io import frozen, pretrained, read_file, weights_of

Section = Mapping[str, Any]

FETCH = "python -m lipsync_lightning.export fetch=latentsync-1.6"  # what inference needs
FETCH_ALL = f"{FETCH} needs=training"


def released_file(path: str, get_with: str) -> dict[str, Any]:
    """Return what a released checkpoint holds, unpickled with `weights_only=True`.

    Raises: MissingWeights, with the command that downloads the file; WrongWeights, if it is no checkpoint.
    """
    if not Path(path).is_file():
        raise MissingWeights(f"no weights at {path}; get them with: {get_with}")
    return read_file(Path(path))


def stable_diffusion_autoencoder(*, path: str, frames_at_a_time: int = 16) -> StableDiffusionAutoencoder:
    """Return Stable Diffusion's VAE from a folder in diffusers' format. Raises: MissingWeights, WrongWeights."""
    vae = pretrained(network=AutoencoderKL, path=path, get_with=FETCH)
    return frozen(StableDiffusionAutoencoder(vae=cast(AutoencoderKL, vae), frames_at_a_time=frames_at_a_time))


def whisper(*, path: str) -> WhisperAudioEncoder:
    """Return the encoder of an OpenAI checkpoint such as `whisper/tiny.pt`. Raises: MissingWeights, WrongWeights."""
    content = released_file(path, get_with=FETCH)
    if not {"dims", "model_state_dict"} <= set(content):
        raise WrongWeights(f"{path} is no OpenAI Whisper: expected 'dims' and 'model_state_dict'; give whisper/tiny.pt")
    return frozen(latentsync.whisper_encoder_from_reference(content["model_state_dict"], content["dims"]))


def unet(*, path: str, config: Section | None = None) -> LipSyncUNet:
    """Return the U-Net of a file such as `latentsync_unet.pt`. Raises: MissingWeights, WrongWeights, BadConfig."""
    weights = _weights(path, get_with=FETCH)
    with_motion = {name.split(".")[0] for name in weights if ".motion_modules." in name}
    motion = "all" if "down_blocks" in with_motion else "up" if with_motion else "none"
    return frozen(latentsync.unet_from_reference(weights, config or unet_config(motion)))


def stable_syncnet(*, path: str, config: Section | None = None) -> StableSyncNet:
    """Return the SyncNet of a file such as `stable_syncnet.pt`. Raises: MissingWeights, WrongWeights, BadConfig."""
    return frozen(latentsync.syncnet_from_reference(_weights(path), config or SYNCNET_CONFIG))


def videomae(*, path: str, num_frames: int | None = None, config: Section | None = None) -> VideoMAEFeatures:
    """Return VideoMAE-v2's features, for clips of `num_frames`. Raises: MissingWeights, WrongWeights."""
    section = {**(config or VIDEOMAE_CONFIG), **({"all_frames": num_frames} if num_frames else {})}
    return frozen(latentsync.videomae_from_reference(_weights(path), section))


def judge_syncnet(*, path: str) -> JudgeSyncNet:
    """Return the evaluation SyncNet of `syncnet_v2.model`. Raises: MissingWeights, WrongWeights."""
    return frozen(latentsync.judge_syncnet_from_reference(_weights(path)))


def hyperiqa(*, path: str) -> HyperIQA:
    """Return the judge of pictures of `koniq_pretrained.pkl`. Raises: MissingWeights, WrongWeights."""
    return frozen(latentsync.hyperiqa_from_reference(_weights(path)))


def _weights(path: str, get_with: str = FETCH_ALL) -> dict[str, Tensor]:
    return weights_of(released_file(path, get_with), path)


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


SYNCNET_CONFIG: dict[str, dict[str, Any]] = {  # `stable_syncnet.pt`
    "audio_encoder": {
        "in_channels": 1,
        "block_out_channels": [32, 64, 128, 256, 512, 1024, 2048],
        "downsample_factors": [[2, 1], 2, 2, 1, 2, 2, [2, 3]],
        "attn_blocks": [0, 0, 0, 1, 1, 0, 0],
        "dropout": 0.0,
    },
    "visual_encoder": {
        "in_channels": 48,
        "block_out_channels": [64, 128, 256, 256, 512, 1024, 2048, 2048],
        "downsample_factors": [[1, 2], 2, 2, 2, 2, 2, 2, 2],
        "attn_blocks": [0, 0, 0, 0, 1, 1, 0, 0],
        "dropout": 0.0,
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
