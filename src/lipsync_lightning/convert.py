"""`python -m lipsync_lightning.convert fetch=latentsync-1.6 out=exports/latentsync-1.6`: released weights become an export, and go back."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from lipsync_lightning.cli import build, entry_point
from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadConfig, MissingWeights, WrongWeights
from lipsync_lightning.files import require_space, weights_dir, whole_file, whole_folder
from lipsync_lightning.models import latentsync
from lipsync_lightning.models.checkpoint_file import read_file, require_undamaged, weights_of
from lipsync_lightning.models.frozen import pretrained
from lipsync_lightning.models.hub import fetch, pinned_now
from lipsync_lightning.models.hub_pins import HUB_ID
from lipsync_lightning.models.matching import plain_weights
from lipsync_lightning.models.released import whisper_of
from lipsync_lightning.models.released_configs import VIDEOMAE_CONFIG, syncnet_config_of, unet_config_of
from lipsync_lightning.models.syncnet import StableSyncNet
from lipsync_lightning.models.unet import LipSyncUNet
from lipsync_lightning.pipeline.lipsync import LipSyncPipeline

FILE_SUFFIXES = (".pt", ".pth", ".pkl", ".model", ".ckpt", ".bin", ".safetensors")  # no hub id ends so
Section = Mapping[str, Any]  # the `model` section of a released YAML file


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A released network: where it lies on the hub, and how what its file holds becomes ours."""

    hub_file: str
    network: Callable[[dict[str, Any], Path, Section | None], ModelMixin]


@dataclass(frozen=True, kw_only=True)
class WayBack:
    """A network that the original tools can read again."""

    network: type[ModelMixin]
    folder: str  # of the network, inside an export or a run
    named: Callable[[Any], dict[str, Tensor]]
    file_name: str


def unet_of(content: dict[str, Any], path: Path, section: Section | None) -> LipSyncUNet:
    """Return the U-Net in what a file holds, its variant told by its names where no section is given."""
    weights = plain_weights(weights_of(content, path))
    return latentsync.unet_from_reference(weights, section or unet_config_of(weights))


def syncnet_of(content: dict[str, Any], path: Path, section: Section | None) -> StableSyncNet:
    """Return the StableSyncNet in what a file holds, which of the released ones told by its shapes where no section is given."""
    weights = plain_weights(weights_of(content, path))
    return latentsync.syncnet_from_reference(weights, section or syncnet_config_of(weights))


KINDS = {
    "latentsync": Kind(hub_file="latentsync_unet.pt", network=unet_of),
    "syncnet": Kind(hub_file="stable_syncnet.pt", network=syncnet_of),
    "whisper": Kind(hub_file="whisper/tiny.pt", network=lambda content, path, _: whisper_of(content, path)),
    "videomae": Kind(
        hub_file="auxiliary/vit_g_hybrid_pt_1200e_ssv2_ft.pth",
        network=lambda content, path, section: latentsync.videomae_from_reference(
            weights_of(content, path), section or VIDEOMAE_CONFIG
        ),
    ),
    "judge_syncnet": Kind(
        hub_file="auxiliary/syncnet_v2.model",
        network=lambda content, path, _: latentsync.judge_syncnet_from_reference(weights_of(content, path)),
    ),
    "hyperiqa": Kind(
        hub_file="auxiliary/koniq_pretrained.pkl",
        network=lambda content, path, _: latentsync.hyperiqa_from_reference(weights_of(content, path)),
    ),
}
WAYS_BACK = {
    "latentsync": WayBack(
        network=LipSyncUNet, folder="unet", named=latentsync.unet_to_reference, file_name="latentsync_unet.pt"
    ),
    "syncnet": WayBack(
        network=StableSyncNet, folder="syncnet", named=latentsync.syncnet_to_reference, file_name="stable_syncnet.pt"
    ),
}


def file_of(source: str, kind: str) -> Path:
    """Return the released file that `source` names: itself, or the usual file of a model on the hub, as it stands there now, downloaded.

    Raises: MissingWeights, if there is neither; BadConfig, if it is a folder.
    """
    path = Path(source)
    if path.is_dir():
        raise BadConfig(
            f"source={source} is a folder; give the released file, such as {Path(KINDS[kind].hub_file).name}, "
            "or to=latentsync to turn an export into one"
        )
    if path.exists() or not HUB_ID.fullmatch(source) or path.parent.exists() or path.suffix in FILE_SUFFIXES:
        return path
    pin = pinned_now(source, KINDS[kind].hub_file, str(weights_dir() / source))
    fetch([pin])
    print(f"{source} at commit {pin.revision}, sha256 {pin.files[0].sha256}")
    return Path(pin.folder) / pin.files[0].path


def read_section(model_config: str | None) -> Section | None:
    """Return the `model` section of a released YAML file, or None where no file is named.

    Raises: BadConfig, if the file is missing or no mapping.
    """
    if model_config is None:
        return None
    if not Path(model_config).is_file():
        raise BadConfig(
            f"model_config={model_config} is not a file; give the YAML that the checkpoint was trained with, or leave it out"
        )
    content = OmegaConf.to_container(OmegaConf.load(model_config), resolve=True)
    if not isinstance(content, dict):
        raise BadConfig(
            f"model_config={model_config} holds no mapping; give the YAML that the checkpoint was trained with"
        )
    return content.get("model", content)


def export_network(config: DictConfig) -> None:
    """Write the network of a released file to `out`, as an export of the whole pipeline if it is a U-Net."""
    out = Path(config.out)
    is_unet = config.kind == "latentsync"
    with whole_folder(
        out
    ) as folder:  # first: what is wrong with `out` is said before anything large is fetched or read
        if "fetch" in config:
            fetch_release(config)
        parts = pipeline_parts(config) if is_unet else {}
        source = file_of(config.source, config.kind)
        content = read_file(source)
        require_undamaged(source)
        require_space(out, source.stat().st_size)
        network = KINDS[config.kind].network(content, source, read_section(config.model_config))
        if network.dtype == torch.float64:
            raise WrongWeights(f"{source} holds float64 weights, an export float32 ones; save them as float32 first")
        (LipSyncPipeline(unet=network, **parts) if is_unet else network).save_pretrained(folder)  # pyright: ignore[reportArgumentType]
    print(f"{out}: {type(network).__name__}, {network.num_parameters():,} parameters, from {source}")
    if is_unet:
        size = config.clip.resolution
        print(
            f"for faces of {size}x{size} pixels; weights trained on others want another clip=, such as clip=512px_25fps for 1.6"
        )


def pipeline_parts(config: DictConfig) -> dict[str, Any]:
    """Return what a pipeline needs beside its U-Net. Raises: MissingWeights, with the command that gets them."""
    clip: ClipSpec = build(config.clip)
    return {
        "autoencoder": build(config.autoencoder),
        "audio_encoder": build(config.audio_encoder),
        "scheduler": build(config.scheduler),
        "clip": clip.as_dict(),
        "num_inference_steps": config.num_inference_steps,
        "guidance_scale": config.guidance_scale,
        "reference": config.reference,
    }


def write_original(config: DictConfig) -> None:
    """Write a network of ours as the file that the original tools read.

    Raises: BadConfig, if there is no way back for this kind; WouldOverwrite, if `out` exists; MissingWeights, WrongWeights for the source.
    """
    if config.kind not in WAYS_BACK:
        raise BadConfig(
            f"kind={config.kind} does not go back: part of its file was left out; only {sorted(WAYS_BACK)} do"
        )
    way = WAYS_BACK[config.kind]
    out, folder = Path(config.out), Path(config.source)
    if out.suffix != ".pt":
        raise BadConfig(f"to=latentsync writes one file: give out=<folder>/{way.file_name}")
    if not folder.is_dir():
        raise MissingWeights(
            f"source={folder} is no folder; give an export, a run with a saved {way.folder}, or the network's own folder"
        )
    inside = folder / way.folder
    if not inside.is_dir() and (folder / "model_index.json").is_file():
        raise WrongWeights(f"source={folder} is an export without a {way.folder}; use kind=latentsync for its U-Net")
    with whole_file(out) as part:
        path = str(inside if inside.is_dir() else folder)
        network = pretrained(
            network=way.network, path=path, get_with="python -m lipsync_lightning.export run=<run> out=<folder>"
        )
        weights = way.named(network)
        require_space(out, sum(tensor.nbytes for tensor in weights.values()))
        torch.save({"global_step": 0, "state_dict": weights}, part)
    print(f"{out}: {network.num_parameters():,} parameters, from {folder}")


def check(config: DictConfig) -> None:
    """Raises: BadConfig, if keys are missing, or their values are none of those there are."""
    missing = [f"{key}=" for key in ("source", "kind", "out") if config[key] is None]
    if missing:
        raise BadConfig(
            f"give {', '.join(missing)} (kinds are {', '.join(sorted(KINDS))}); or fetch=latentsync-1.6 out=<folder> for what was released"
        )
    if config.kind not in KINDS:
        raise BadConfig(f"kind={config.kind} is none of {sorted(KINDS)}; say what the file holds")
    if config.to not in ("export", "latentsync"):
        raise BadConfig(f"to={config.to} is neither export nor latentsync")


def fetch_release(config: DictConfig) -> None:
    """Download what inference or training needs of a release. Raises: as `fetch`; BadConfig, if `needs` is neither."""
    if config.needs not in ("inference", "training"):
        raise BadConfig(f"needs={config.needs} is neither inference nor training")
    wanted = build(config.fetch)
    sources = [*wanted["inference"].values(), *(wanted["training"].values() if config.needs == "training" else ())]
    fetched = fetch(sources)
    num_files = sum(len(source.files) for source in sources)
    print(f"{wanted['folder']}: {len(fetched)} files downloaded, {num_files - len(fetched)} were there, all as pinned")


@entry_point("convert")
def main(config: DictConfig) -> None:
    logging.getLogger("lipsync_lightning").setLevel(logging.INFO)  # says what is left out on purpose
    if "fetch" in config and config.out is None:
        fetch_release(config)
        return
    check(config)
    {"export": export_network, "latentsync": write_original}[config.to](config)


if __name__ == "__main__":
    main()
