"""Frozen networks in the files their authors released, as YAML names them."""

import pickle
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from lipsync_lightning.errors import MissingWeights, WrongWeights
from lipsync_lightning.models.audio_encoder import WhisperAudioEncoder
from lipsync_lightning.models.autoencoder import StableDiffusionAutoencoder
from lipsync_lightning.models.frozen import frozen, pretrained
from lipsync_lightning.models.videomae import DROPPED_KEYS, VideoMAEFeatures

LATENTSYNC_HUB = "ByteDance/LatentSync-1.6"
VAE_HUB = "stabilityai/sd-vae-ft-mse"


def stable_diffusion_autoencoder(*, path: str) -> StableDiffusionAutoencoder:
    """Return Stable Diffusion's VAE from a folder in diffusers' format.

    Raises: MissingWeights, if the folder holds none; WrongWeights, if it holds another network.
    """
    vae = pretrained(network=AutoencoderKL, path=path, get_with=f"hf download {VAE_HUB} --local-dir {path}")
    return frozen(StableDiffusionAutoencoder(vae=cast(AutoencoderKL, vae)))


def whisper(*, path: str) -> WhisperAudioEncoder:
    """Return the encoder of an OpenAI Whisper checkpoint such as `whisper/tiny.pt`.

    Raises: MissingWeights, WrongWeights.
    """
    checkpoint = released_file(path, depth=2)
    if not {"dims", "model_state_dict"} <= set(checkpoint):
        raise WrongWeights(f"{path} is not an OpenAI Whisper checkpoint: no 'dims' or no 'model_state_dict' in it")
    return frozen(WhisperAudioEncoder.from_openai(checkpoint["model_state_dict"], checkpoint["dims"]))


def videomae(*, path: str, architecture: dict[str, int]) -> VideoMAEFeatures:
    """Return VideoMAE-v2's features from its released checkpoint, without the classifier.

    Args: architecture: arguments of `VideoMAEFeatures`.
    Raises: MissingWeights, WrongWeights.
    """
    checkpoint = released_file(path, depth=2)
    weights = {name: tensor for name, tensor in checkpoint.get("module", checkpoint).items() if name not in DROPPED_KEYS}
    network = VideoMAEFeatures(**architecture)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise WrongWeights(f"{path} does not hold this VideoMAE: {str(error).splitlines()[0]}") from error
    return frozen(network)


def released_file(path: str, depth: int) -> dict[str, Any]:
    """Return a released checkpoint, unpickled with `weights_only=True`.

    Args: depth: folders between the hub's root and the file, itself included; used to name the download command.
    Raises: MissingWeights, with that command; WrongWeights, if the file is no checkpoint.
    """
    file = Path(path)
    if not file.is_file():
        inside = "/".join(file.parts[-depth:])
        folder = Path(*file.parts[:-depth])
        raise MissingWeights(f"no weights at {path}; get them with: hf download {LATENTSYNC_HUB} {inside} --local-dir {folder}")
    return unpickled(file)


def unpickled(path: Path) -> dict[str, Any]:
    """Return what a checkpoint file holds, read with `weights_only=True`. Raises: WrongWeights, if the file is no checkpoint."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError) as error:  # whichever a file of another kind provokes
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise WrongWeights(f"{path} is not a readable checkpoint: {reason}") from error
    if not isinstance(content, dict):
        raise WrongWeights(f"{path} is not a readable checkpoint: it holds a {type(content).__name__}, no names")
    return content
