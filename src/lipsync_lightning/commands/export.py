"""`python -m lipsync_lightning.export`: a run or released weights become a folder that the pipeline loads, and go back.

run=runs/stage2 out=exports/mine                       the newest weights of a training run
fetch=latentsync-1.6 [needs=training] [out=<folder>]   a release is downloaded, and exported where `out` is given
source=<released file> kind=<kind> out=<folder>        a file in the original format
source=<export, run or folder> kind=<kind> to=latentsync out=<file.pt>   back to the original format
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers.models.modeling_utils import ModelMixin
from omegaconf import DictConfig, OmegaConf

from lipsync_lightning.cli import build
from lipsync_lightning.diffusion import timestep_density
from lipsync_lightning.errors import BadConfig, MissingWeights, WouldOverwrite, WrongWeights
from lipsync_lightning.files import weights_dir, whole_file, whole_folder
from lipsync_lightning.models import released
from lipsync_lightning.models.autoencoder import encoder_fingerprint
from lipsync_lightning.models.hub import HubFile, fetch
from lipsync_lightning.models.latentsync import syncnet_to_reference, unet_to_reference
from lipsync_lightning.models.syncnet import StableSyncNet
from lipsync_lightning.models.unet import LipSyncUNet
from lipsync_lightning.models.weights_io import load_matching, pretrained
from lipsync_lightning.modules.weights import RUN_CONFIG, network_weights
from lipsync_lightning.pipeline.lipsync import LipSyncPipeline

KINDS: dict[str, Callable[..., ModelMixin]] = {
    "latentsync": released.unet,
    "syncnet": released.stable_syncnet,
    "videomae": released.videomae,
    "whisper": released.whisper,
    "judge_syncnet": released.judge_syncnet,
    "hyperiqa": released.hyperiqa,
}
CONFIGURED = ("latentsync", "syncnet", "videomae")  # kinds that a `model_config` describes
WAYS_BACK: dict[str, tuple[type[ModelMixin], str, Callable[..., Any]]] = {  # class, folder in an export or a run
    "latentsync": (LipSyncUNet, "unet", unet_to_reference),
    "syncnet": (StableSyncNet, "syncnet", syncnet_to_reference),
}
DEFAULTS = ("num_inference_steps", "guidance_scale", "reference")  # of inference, stored in the export


def pipeline_of_run(
    run: Path,
    num_inference_steps: int | None,
    guidance_scale: float | None,
    reference: str,
    decoder: str | None = None,
    checkpoint: str | int = "last",
) -> LipSyncPipeline:
    """Return the pipeline with a run's U-Net, in eval mode.

    Args:
        num_inference_steps, guidance_scale: None for those of the run's own validation.
        decoder: see `with_decoder`.
        checkpoint: `last`, `best` or a step.
    Raises: MissingWeights, if the folder holds no run or no weights; WrongWeights; BadConfig, if it trained no U-Net,
        or sampling would visit timesteps it was not trained at.
    """
    config = OmegaConf.load(run / RUN_CONFIG) if (run / RUN_CONFIG).is_file() else {}
    if not isinstance(config, DictConfig) or "module" not in config:
        raise MissingWeights(f"run={run} holds no training run ({RUN_CONFIG}); give the run_dir of a training")
    if "unet" not in config.module:
        raise BadConfig(f"run={run} trained no U-Net but {config.module._target_}; give a run of a stage")
    unet = build(config.module.unet)
    load_matching(unet, network_weights(str(run), "unet", checkpoint), allowed_missing=())
    return LipSyncPipeline(
        unet=unet.eval(),
        autoencoder=with_decoder(build(config.module.autoencoder), decoder),
        audio_encoder=build(config.audio_encoder),
        scheduler=build(config.module.scheduler),
        clip=build(config.clip).as_dict(),
        num_inference_steps=config.module.num_inference_steps if num_inference_steps is None else num_inference_steps,
        guidance_scale=config.module.guidance_scale if guidance_scale is None else guidance_scale,
        reference=reference,
        mask=OmegaConf.select(config, "data.samples.mask", default="released"),  # older runs had no choice
        trained_timesteps=stretches(trained_timesteps(config)),
    )


def trained_timesteps(config: DictConfig) -> np.ndarray:
    """Return which timesteps (T,) a run, or what it started from, was trained at; released weights know all."""
    module = config.module
    choice: Any = module.get("timesteps", "uniform")  # older runs had no choice
    choice = OmegaConf.to_container(choice) if OmegaConf.is_config(choice) else choice
    trained = timestep_density(choice, build(module.scheduler), module.num_inference_steps) > 0
    init_from = config.get("init_from")
    start = Path(init_from or "")
    former = (start.parent.parent if start.is_file() else start) / RUN_CONFIG
    if init_from is None:
        return trained
    if former.is_file():
        return trained | trained_timesteps(cast(DictConfig, OmegaConf.load(former)))
    is_export = (start / "model_index.json").is_file()
    known = cast(dict, LipSyncPipeline.load_config(start)).get("trained_timesteps") if is_export else None
    for lowest, highest in known or [(0, len(trained) - 1)]:
        trained[lowest : highest + 1] = True
    return trained


def stretches(trained: np.ndarray) -> list[list[int]]:
    """Return [first, last] of each stretch of True in (T,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], trained, [False]]))).reshape(-1, 2)
    return [[int(first), int(last) - 1] for first, last in edges]


def with_decoder(autoencoder: Any, decoder: str | None) -> Any:
    """Return the autoencoder, or one that makes the same latents and has been trained to decode them.

    Args: decoder: a run of `AutoencoderModule`, or a folder of an autoencoder of the same class.
    Raises: MissingWeights, WrongWeights, also for one of other latents.
    """
    if decoder is None:
        return autoencoder
    folder = Path(decoder) / "autoencoder" if (Path(decoder) / "autoencoder").is_dir() else Path(decoder)
    way_out = "python -m lipsync_lightning.train +experiment=vae_decoder"
    trained = pretrained(network=type(autoencoder), path=str(folder), get_with=way_out)
    if encoder_fingerprint(trained) != encoder_fingerprint(autoencoder):
        raise WrongWeights(f"decoder={decoder} decodes other latents than the U-Net makes; train it on that encoder")
    return trained


def fetch_release(config: DictConfig) -> None:
    """Download a release to where conf/models reads it. Raises: BadConfig, and what `fetch` raises."""
    if config.fetch not in config.releases or config.needs not in ("inference", "training"):
        raise BadConfig(f"fetch one of {sorted(config.releases)}, for needs=inference or needs=training")
    release = config.releases[config.fetch]
    pins = [*release.inference, *(release.training if config.needs == "training" else ())]
    num = len(fetch(HubFile(**{**pin, "folder": weights_dir() / pin.folder}) for pin in pins))
    print(f"{config.fetch}: {num} files downloaded, {len(pins) - num} were there, all as pinned")


def export_released(config: DictConfig) -> None:
    """Write the network of a released file to `out`, as an export of the whole pipeline if it is a U-Net."""
    options, path = {}, config.model_config
    if path is not None:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True) if Path(path).is_file() else None
        if not isinstance(content, dict):
            raise BadConfig(f"model_config={path} is no YAML file with settings; give the checkpoint's own")
        options = {"config": content.get("model", content)}
    out, kind = Path(config.out), config.kind or "latentsync"
    with whole_folder(out) as folder:  # first: a wrong `out` is refused before anything large is fetched or read
        if config.fetch is not None:
            fetch_release(config)
            config.source = str(weights_dir() / config.fetch / "latentsync_unet.pt")
            config.clip.resolution = config.releases[config.fetch].resolution
        parts = {}
        if kind == "latentsync":
            parts = {name: build(config[name]) for name in ("autoencoder", "audio_encoder", "scheduler")}
            parts["autoencoder"] = with_decoder(parts["autoencoder"], config.decoder)
            defaults = {name: config[name] for name in DEFAULTS if config[name] is not None}
            parts |= {"clip": build(config.clip).as_dict(), **defaults}
        network = KINDS[kind](path=config.source, **options)
        (LipSyncPipeline(unet=network, **parts) if parts else network).save_pretrained(folder)  # pyright: ignore[reportArgumentType]
    print(f"{out}: {type(network).__name__}, {network.num_parameters():,} parameters, from {config.source}")
    if parts:
        print(f"for faces of {config.clip.resolution} pixels; weights that were trained on others want another clip=")


def write_original(config: DictConfig) -> None:
    """Write a network of ours as the file that the original tools read.

    Raises: BadConfig, for a kind without a way back; WouldOverwrite, if `out` exists; MissingWeights, WrongWeights.
    """
    if config.kind not in WAYS_BACK or not config.out.endswith(".pt"):
        raise BadConfig(f"to=latentsync writes a file of kind={' or '.join(WAYS_BACK)}; give it and out=<file.pt>")
    network_class, name, to_reference = WAYS_BACK[config.kind]
    folder = Path(config.source)
    path = folder / name if (folder / name).is_dir() else folder
    out = Path(config.out)
    if out.exists():
        raise WouldOverwrite(f"{out} exists; choose another out=")
    with whole_file(out) as part:
        way_out = "python -m lipsync_lightning.export run=<run> out=<folder>"
        network = pretrained(network=network_class, path=str(path), get_with=way_out)
        weights = to_reference(network)
        torch.save({"global_step": 0, "state_dict": weights}, part)
    print(f"{out}: {network.num_parameters():,} parameters, from {folder}")


def require_complete(config: DictConfig) -> None:
    """Raises: BadConfig, if what is given is not one of the four commands."""
    if config.to == "latentsync" and config.source is None:
        raise BadConfig("to=latentsync needs source=<an export, or the folder of a run> and kind=")
    if config.decoder is not None and (config.to == "latentsync" or (config.kind or "latentsync") != "latentsync"):
        raise BadConfig("decoder= goes into an export of a U-Net; leave it out")
    if config.source is not None and config.kind not in KINDS:
        raise BadConfig(f"kind={config.kind} is none of {sorted(KINDS)}; say what source={config.source} holds")
    if config.source is not None and config.model_config is not None and config.kind not in CONFIGURED:
        raise BadConfig(f"model_config= describes kind={' or '.join(CONFIGURED)}; leave it out for kind={config.kind}")


def run(config: DictConfig) -> None:
    logging.getLogger("lipsync_lightning").setLevel(logging.INFO)  # says what is left out on purpose
    require_complete(config)
    if config.run is not None:
        options = {name: config[name] for name in (*DEFAULTS, "decoder", "checkpoint")}
        pipeline = pipeline_of_run(Path(config.run), **options)
        with whole_folder(Path(config.out)) as folder:
            pipeline.save_pretrained(folder)
        print(f"exported {config.run} to {config.out}")
    elif config.fetch is not None and config.out is None:
        fetch_release(config)
    elif config.source is not None and config.to == "latentsync":
        write_original(config)
    else:
        export_released(config)
