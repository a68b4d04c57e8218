"""`python -m lipsync_lightning.export`: a run or released weights become a folder that diffusers and the pipeline load, and go back.

run=runs/stage2 out=exports/mine                       the newest weights of a training run
fetch=latentsync-1.6 [needs=training] [out=<folder>]   downloads a release, and makes an export of it where `out` is given
source=<released file> kind=<kind> out=<folder>        a file in the original format
source=<export, run or folder> kind=<kind> to=latentsync out=<file.pt>   back to the original format
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from omegaconf import DictConfig, OmegaConf

from lipsync_lightning.cli import build, entry_point
from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadConfig, MissingWeights, WrongWeights
from lipsync_lightning.files import require_space, weights_dir, whole_file, whole_folder
from lipsync_lightning.models import released
from lipsync_lightning.models.hub import HubFile, fetch
from lipsync_lightning.models.latentsync import syncnet_to_reference, unet_to_reference
from lipsync_lightning.models.syncnet import StableSyncNet
from lipsync_lightning.models.unet import LipSyncUNet
from lipsync_lightning.models.weights_io import pretrained
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


def run_config(run: Path) -> DictConfig:
    """Return the configuration a run was started with.

    Raises: MissingWeights, if the folder holds no run; BadConfig, if the run trained no U-Net.
    """
    config = OmegaConf.load(run / RUN_CONFIG) if (run / RUN_CONFIG).is_file() else {}
    if not isinstance(config, DictConfig) or "module" not in config:
        raise MissingWeights(
            f"run={run} holds no training run ({RUN_CONFIG} with a module); give the run_dir of a training"
        )
    if "unet" not in config.module:
        name = config.module._target_.split(".")[-1]
        raise BadConfig(
            f"run={run} trained no U-Net but {name}; give a run of a stage, this one's network lies in {run}"
        )
    return config


def pipeline_of_run(run: Path, num_inference_steps: int, guidance_scale: float, reference: str) -> LipSyncPipeline:
    """Return the pipeline with a run's newest U-Net, in eval mode. Raises: as `run_config`, MissingWeights and WrongWeights."""
    config = run_config(run)
    unet = build(config.module.unet)
    try:
        unet.load_state_dict(network_weights(str(run), "unet"))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise WrongWeights(f"run={run}: its weights are not those of the U-Net it configures ({reason})") from error
    clip: ClipSpec = build(config.clip)
    return LipSyncPipeline(
        unet=unet.eval(),
        autoencoder=build(config.module.autoencoder),
        audio_encoder=build(config.audio_encoder),
        scheduler=build(config.module.scheduler),
        clip=clip.as_dict(),
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        reference=reference,
        mask=OmegaConf.select(config, "data.samples.mask", default="released"),  # older runs had no choice
    )


def fetch_release(config: DictConfig) -> None:
    """Download what inference or training needs of a release, into the folders that conf/models reads. Raises: as `fetch`, BadConfig."""
    if config.fetch not in config.releases or config.needs not in ("inference", "training"):
        raise BadConfig(
            f"fetch={config.fetch} needs={config.needs} is not there; fetch one of {sorted(config.releases)}, "
            "for needs=inference or needs=training"
        )
    parts = ("inference", "training") if config.needs == "training" else ("inference",)
    pins = [pin for part in parts for pin in config.releases[config.fetch][part]]
    files = [HubFile(**{**pin, "folder": weights_dir() / pin.folder}) for pin in pins]
    downloaded = fetch(files)
    print(
        f"{config.fetch}: {len(downloaded)} files downloaded, {len(files) - len(downloaded)} were there, all as pinned"
    )


def export_released(config: DictConfig) -> None:
    """Write the network of a released file to `out`, as an export of the whole pipeline if it is a U-Net."""
    options = {} if config.model_config is None else {"config": model_section(config.model_config)}
    out, kind = Path(config.out), "latentsync" if config.kind is None else config.kind
    with whole_folder(
        out
    ) as folder:  # first: what is wrong with `out` is said before anything large is fetched or read
        if config.fetch is not None:
            fetch_release(config)
            config.source = str(weights_dir() / config.fetch / "latentsync_unet.pt")
            config.clip.resolution = config.releases[config.fetch].resolution
        parts = pipeline_parts(config) if kind == "latentsync" else None
        network = KINDS[kind](path=config.source, **options)
        if network.dtype == torch.float64:
            raise WrongWeights(
                f"{config.source} holds float64 weights, an export float32 ones; save them as float32 first"
            )
        require_space(out, network.get_memory_footprint())
        (network if parts is None else LipSyncPipeline(unet=network, **parts)).save_pretrained(folder)  # pyright: ignore[reportArgumentType]
    print(f"{out}: {type(network).__name__}, {network.num_parameters():,} parameters, from {config.source}")
    if parts is not None:
        size = config.clip.resolution
        print(f"for faces of {size}x{size} pixels; weights that were trained on others want another clip=")


def pipeline_parts(config: DictConfig) -> dict[str, Any]:
    """Return what a pipeline needs beside its U-Net. Raises: MissingWeights, with the command that gets them."""
    clip: ClipSpec = build(config.clip)
    return {
        "autoencoder": build(config.autoencoder),
        "audio_encoder": build(config.audio_encoder),
        "scheduler": build(config.scheduler),
        "clip": clip.as_dict(),
        **{name: config[name] for name in ("num_inference_steps", "guidance_scale", "reference")},
    }


def model_section(path: str) -> Mapping[str, Any]:
    """Return the `model` section of a released YAML file. Raises: BadConfig, if there is none."""
    content = OmegaConf.to_container(OmegaConf.load(path), resolve=True) if Path(path).is_file() else None
    if not isinstance(content, dict):
        raise BadConfig(
            f"model_config={path} is no YAML file with settings; give the one the checkpoint was trained with"
        )
    return content.get("model", content)


def write_original(config: DictConfig) -> None:
    """Write a network of ours as the file that the original tools read.

    Raises: BadConfig, if there is no way back for this kind; WouldOverwrite, if `out` exists; MissingWeights, WrongWeights for the source.
    """
    if config.kind not in WAYS_BACK or not config.out.endswith(".pt"):
        raise BadConfig(
            f"to=latentsync writes a file of kind={' or '.join(WAYS_BACK)}; give the kind and out=<file.pt>"
        )
    network_class, name, to_reference = WAYS_BACK[config.kind]
    folder = Path(config.source)
    path = folder / name if (folder / name).is_dir() else folder
    with whole_file(Path(config.out)) as part:
        network = pretrained(
            network=network_class, path=str(path), get_with="python -m lipsync_lightning.export run=<run> out=<folder>"
        )
        weights = to_reference(network)
        require_space(part, sum(tensor.nbytes for tensor in weights.values()))
        torch.save({"global_step": 0, "state_dict": weights}, part)
    print(f"{config.out}: {network.num_parameters():,} parameters, from {folder}")


def require_complete(config: DictConfig) -> None:
    """Raises: BadConfig, if what is given is not one of the four commands."""
    given = [f"{key}=" for key in ("run", "fetch", "source") if config[key] is not None]
    if len(given) != 1:
        raise BadConfig(f"give one of run=, fetch= and source=, not {given or 'none of them'}")
    if config.out is None and config.fetch is None:
        raise BadConfig("give out=<folder>, or out=<file.pt> where to=latentsync")
    if config.source is not None and config.kind not in KINDS:
        raise BadConfig(f"kind={config.kind} is none of {sorted(KINDS)}; say what source={config.source} holds")
    if config.to not in ("export", "latentsync"):
        raise BadConfig(f"to={config.to} is neither export nor latentsync")
    if config.model_config is not None and config.source is not None and config.kind not in CONFIGURED:
        raise BadConfig(f"model_config= describes kind={' or '.join(CONFIGURED)}; leave it out for kind={config.kind}")


@entry_point("export")
def main(config: DictConfig) -> None:
    logging.getLogger("lipsync_lightning").setLevel(logging.INFO)  # says what is left out on purpose
    require_complete(config)
    if config.run is not None:
        settings = {name: config[name] for name in ("num_inference_steps", "guidance_scale", "reference")}
        pipeline = pipeline_of_run(Path(config.run), **settings)
        with whole_folder(Path(config.out)) as folder:
            pipeline.save_pretrained(folder)
        print(f"exported {config.run} to {config.out}")
    elif config.fetch is not None and config.out is None:
        fetch_release(config)
    elif config.fetch is None and config.to == "latentsync":
        write_original(config)
    else:
        export_released(config)


if __name__ == "__main__":
    main()
