"""Frozen networks in the files their authors released, as YAML names them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from lipsync_lightning.errors import MissingWeights, WrongWeights
from lipsync_lightning.models.audio_encoder import WhisperAudioEncoder
from lipsync_lightning.models.autoencoder import StableDiffusionAutoencoder
from lipsync_lightning.models.checkpoint_file import read_file, weights_of
from lipsync_lightning.models.frozen import frozen, pretrained
from lipsync_lightning.models.latentsync import (
    syncnet_from_reference,
    videomae_from_reference,
    whisper_encoder_from_reference,
)
from lipsync_lightning.models.matching import plain_weights
from lipsync_lightning.models.released_configs import VIDEOMAE_CONFIG, syncnet_config_of
from lipsync_lightning.models.syncnet import StableSyncNet
from lipsync_lightning.models.videomae import VideoMAEFeatures

FETCH = "python -m lipsync_lightning.convert fetch=latentsync-1.6"  # what inference needs
FETCH_ALL = f"{FETCH} needs=training"


def stable_diffusion_autoencoder(*, path: str) -> StableDiffusionAutoencoder:
    """Return Stable Diffusion's VAE from a folder in diffusers' format.

    Raises: MissingWeights, if the folder holds none; WrongWeights, if it holds another network.
    """
    vae = pretrained(network=AutoencoderKL, path=path, get_with=FETCH)
    return frozen(StableDiffusionAutoencoder(vae=cast(AutoencoderKL, vae)))


def whisper(*, path: str) -> WhisperAudioEncoder:
    """Return the encoder of an OpenAI Whisper checkpoint such as `whisper/tiny.pt`.

    Raises: MissingWeights, WrongWeights.
    """
    return frozen(whisper_of(released_file(path, get_with=FETCH), path))


def whisper_of(content: Mapping[str, Any], path: object) -> WhisperAudioEncoder:
    """Return the encoder in what an OpenAI checkpoint holds. Raises: WrongWeights, naming `path`, if that is another checkpoint."""
    if not {"dims", "model_state_dict"} <= set(content):
        raise WrongWeights(
            f"{path} is not an OpenAI Whisper checkpoint: no 'dims' or no 'model_state_dict' in it; give whisper/tiny.pt"
        )
    return whisper_encoder_from_reference(content["model_state_dict"], content["dims"])


def stable_syncnet(*, path: str) -> StableSyncNet:
    """Return a released StableSyncNet such as `stable_syncnet.pt`. Raises: MissingWeights, WrongWeights."""
    weights = plain_weights(weights_of(released_file(path, get_with=FETCH_ALL), path))
    return frozen(syncnet_from_reference(weights, syncnet_config_of(weights)))


def videomae(*, path: str, num_frames: int, config: Mapping[str, Any] = VIDEOMAE_CONFIG) -> VideoMAEFeatures:
    """Return VideoMAE-v2's features from its released checkpoint, without the classifier.

    Args:
        num_frames: of the clips it will read.
        config: as `videomae_from_reference` takes it; the released ViT-g unless told otherwise.
    Raises: MissingWeights, WrongWeights.
    """
    weights = weights_of(released_file(path, get_with=FETCH_ALL), path)
    return frozen(videomae_from_reference(weights, {**config, "all_frames": num_frames}))


def released_file(path: str, get_with: str) -> dict[str, Any]:
    """Return what a released checkpoint holds, unpickled with `weights_only=True`.

    Args: get_with: the command that downloads the file; part of the error.
    Raises: MissingWeights, with that command; WrongWeights, if the file is no checkpoint.
    """
    if not Path(path).is_file():
        raise MissingWeights(f"no weights at {path}; get them with: {get_with}")
    return read_file(Path(path))
