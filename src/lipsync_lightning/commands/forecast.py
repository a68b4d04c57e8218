"""What a configuration needs of a GPU, counted before anything is built for real: `train … +memory=forecast`.

A module takes a step on fake tensors: shapes and types without values, so neither weights nor a GPU are needed. Every
operation is seen by a meter that adds up memory that is alive, operations by PyTorch's formulas, and bytes read and
written. The processor's own autocast stands in for CUDA's, made to follow its rules where they differ. Workspaces of
libraries and copies of layouts are not seen, so peaks are lower bounds.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from lipsync_lightning.cli import build
from lipsync_lightning.errors import BadConfig, MissingWeights
from lipsync_lightning.files import CONF_DIR
from lipsync_lightning.losses.lpips import untrained_lpips
from lipsync_lightning.metering import Meter, as_on_a_gpu
from lipsync_lightning.models import released
from lipsync_lightning.models.autoencoder import StableDiffusionAutoencoder
from lipsync_lightning.models.syncnet import StableSyncNet
from lipsync_lightning.models.videomae import VideoMAEFeatures
from lipsync_lightning.models.weights_io import frozen

GIB = 2**30
USABLE = 0.92  # of a card's memory: its context and libraries' workspaces take the rest
TOKENS = (50, 384)  # of Whisper tiny, for each frame
VAE: dict[str, Any] = {  # of stabilityai/sd-vae-ft-mse
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
}


def vae_without_weights(*, path: str, frames_at_a_time: int) -> StableDiffusionAutoencoder:
    return frozen(StableDiffusionAutoencoder(vae=AutoencoderKL(**VAE), frames_at_a_time=frames_at_a_time))


def network_without_weights(*, path: str, network: Any = None, **_: Any) -> nn.Module:
    """Return a network as its folder says; a SyncNet that is not there yet as the experiment would train it."""
    if network not in (None, StableSyncNet) or (Path(path) / "config.json").is_file():
        shaped: Any = network or StableSyncNet
        if not (Path(path) / "config.json").is_file():
            raise MissingWeights(f"no {shaped.__name__} at {path}, whose size is counted; make it first")
        return frozen(shaped.from_config(shaped.load_config(path)))
    if "latent" not in Path(path).parent.name:
        return frozen(build(OmegaConf.load(CONF_DIR / "models" / "syncnet" / "stable_16px_attn.yaml")))
    latent: Any = OmegaConf.load(CONF_DIR / "experiment" / "syncnet_latent.yaml")
    shape = OmegaConf.load(CONF_DIR / "models" / "syncnet" / "stable_16px_attn.yaml")
    return frozen(build(OmegaConf.merge(shape, latent.module.syncnet)))


def videomae_without_weights(*, path: str, num_frames: int, config: Any = None) -> VideoMAEFeatures:
    sizes = dict(config or released.VIDEOMAE_CONFIG)
    width, ratio = sizes["embed_dim"], sizes.pop("mlp_ratio")
    sizes |= {"image_size": sizes.pop("img_size"), "num_frames": num_frames, "mlp_width": int(width * ratio)}
    sizes.pop("all_frames", None)
    return frozen(VideoMAEFeatures(**sizes))


@contextmanager
def without_files() -> Iterator[None]:
    """Within, what reads weights from a file makes a network of the same shape."""
    with ExitStack() as stack:
        for place, instead in {
            "models.released.stable_diffusion_autoencoder": vae_without_weights,
            "models.released.stable_syncnet": network_without_weights,
            "models.released.videomae": videomae_without_weights,
            "models.weights_io.pretrained": network_without_weights,
            "losses.lpips.vgg_lpips": lambda path: untrained_lpips(),
        }.items():
            stack.enter_context(patch(f"lipsync_lightning.{place}", instead))
        for place in ("unet_base", "syncnet"):  # they hash weights
            stack.enter_context(patch(f"lipsync_lightning.modules.{place}.encoder_fingerprint", lambda _: ""))
        yield


def batch_of(config: DictConfig, module: Any, size: int) -> dict[str, Any]:
    """Return a batch as the experiment's samples give it, on the device."""
    clip, heard = module.clip, config.audio_encoder
    side, frames = clip.resolution, clip.num_frames
    kind = config.data.samples._target_.rpartition(".")[2]
    batch: dict[str, Any] = {"id": [str(n) for n in range(size)], "seed": np.arange(size)}
    batch["mel"] = torch.empty(size, 1, clip.num_mels, clip.mel_columns)

    def stored() -> Tensor:
        latent = side // module.autoencoder.downscale
        return torch.empty(size, frames, 2, module.autoencoder.latent_channels, latent, latent, dtype=torch.float16)

    if kind == "SyncNetSamples":
        seen = config.data.samples.sees._target_.rpartition(".")[2]
        if seen == "StoredFaces":
            return batch | {"latents": stored(), "made_by": [""] * size}
        height = side // 2 if seen == "Lips" else side
        return batch | {"lips" if seen == "Lips" else "frames": torch.empty(size, frames, 3, height, side)}
    frames = len(range(0, frames, config.data.samples.get("every_nth_frame", 1)))
    batch["keep_mask"] = torch.empty(size, 1, side, side)
    tokens = TOKENS
    if "num_tokens" in heard:  # log-mel
        tokens = (heard.num_tokens, heard.columns_per_token * heard.num_mels)
    batch["audio"] = torch.empty(size, frames, *tokens)
    if kind == "LatentSamples":
        names = ("latents", "masked_latents", "reference_latents")
        return batch | {name: stored() for name in names} | {"made_by": [""] * size}
    return batch | {name: torch.empty(size, frames, 3, side, side) for name in ("frames", "reference")}


def bytes_of(parameters: Any) -> int:
    return sum(each.numel() * each.element_size() for each in parameters)


def static_parts(module: nn.Module, config: DictConfig) -> dict[str, int]:
    """Return the bytes that stay between steps, by what they are."""
    trained = bytes_of(each for each in module.parameters() if each.requires_grad)
    parts = {"weights": bytes_of((*module.parameters(), *module.buffers())), "gradients": trained}
    optimizer = config.module.get("optimizer") or {}
    parts["optimizer"] = trained // 2 if "8bit" in optimizer.get("_target_", "") else 2 * trained  # two moments
    if config.trainer.strategy == "auto" and torch.cuda.device_count() > 1:
        parts["gradients in buckets"] = trained  # of Lightning's own DDP; trainer=ddp has none
    if config.callbacks.get("ema") is not None:
        kept = getattr(module, "frozen_parts", ())
        parts["average"] = bytes_of(own for name, own in module.named_parameters() if not name.startswith(kept))
    return parts


def count(config: DictConfig, what: str = "step") -> dict[str, Any]:
    """Return what a `step`, a `validation` batch or an `inference` window needs, as a row of figures; never compiled.

    GiB: `static_gib` (of the parts named in `parts_gib`), `peak_gib` (made in the step, gradients included) and
    `total_gib`. `tflop`, `moved_tb`, `kernels`, and how often the host waits for the device, `host_waits`.
    """
    config = config.copy()
    size, clip = int(config.data.batch_size), build(config.clip)
    half = not (torch.cuda.is_available() and str(config.trainer.precision).startswith("32"))  # as where GPUs are
    if "frozen_dtype" in config.module and half:
        config.module.frozen_dtype = "bfloat16"
    if OmegaConf.select(config, "trainer.strategy._target_", default="").endswith("ShardedStrategy"):
        raise BadConfig("memory and profile count a network that lies on one GPU; leave them out with trainer=fsdp")
    unmoved = patch.object(nn.Module, "to", lambda self, *_, **__: self)  # fakes cannot move
    with FakeTensorMode(allow_non_fake_inputs=True), as_on_a_gpu(), without_files(), unmoved:
        module: Any = build(config.module)
        module.log = module.log_dict = lambda *_, **__: None
        for metric in (each for each in module.modules() if hasattr(each, "nan_strategy")):
            metric.nan_strategy = "disable"  # or it would pick out values, of which there are none
        if getattr(module, "activations", nullcontext) is not nullcontext:  # what waits in the host's memory
            module.activations = partial(saved_tensors_hooks, lambda kept: (kept.shape, kept.dtype), _made_again)
        autocast = partial(torch.autocast, "cpu", dtype=torch.bfloat16, enabled=half)
        module.train(what == "step")
        with Meter() as meter:
            batch = batch_of(config, module, size)
            if what == "step":
                with autocast():
                    loss = module.training_step(batch, 0)
                if loss is None:
                    raise BadConfig(f"{config.name} learns by no gradient: there is nothing to forecast")
                loss.backward()
                del loss
            elif what == "validation":
                with torch.no_grad(), autocast():
                    module.validation_step(batch, 0)
            else:
                size = 1
                for each in (*module.unet.parameters(), *module.unet.buffers()):
                    each.data = each.data.to(torch.bfloat16)  # as `infer dtype=bfloat16`
                with torch.no_grad():
                    module.generate({key: value[:1] for key, value in batch.items()})
        parts = static_parts(module, config)
        gradients = parts["gradients"]  # made within a step, so its peak counts them
        if what == "inference":
            parts = {"weights": bytes_of((*module.unet.parameters(), *module.autoencoder.parameters()))}
        elif what == "validation":
            del parts["gradients"]
        static = sum(parts.values())
        total = static + meter.peak - (gradients if what == "step" else 0)
        module.zero_grad(set_to_none=True)
        del batch
    return {
        **{"experiment": str(config.name), "what": what, "batch_size": size, "resolution": clip.resolution},
        **{"static_gib": static / GIB, "peak_gib": meter.peak / GIB, "total_gib": total / GIB},
        **{"tflop": meter.flops / 1e12, "moved_tb": meter.moved / 1e12, "kernels": meter.kernels},
        **{"host_waits": meter.waits, "parts_gib": {name: size / GIB for name, size in parts.items()}},
    }


def _made_again(shape_and_dtype: tuple[torch.Size, torch.dtype]) -> Tensor:
    return torch.empty(shape_and_dtype[0], dtype=shape_and_dtype[1])


def sentence(row: dict[str, Any]) -> str:
    """Return what a counted step needs in words."""
    parts = ", ".join(f"{name} {gib:.1f}" for name, gib in row["parts_gib"].items())
    whose = f"a step of {row['batch_size']} windows of {row['resolution']} px"
    return f"{whose} needs {row['total_gib']:.1f} GiB of a GPU, counted: {parts}, in the step {row['peak_gib']:.1f}"


def require_fitting(config: DictConfig) -> str:
    """Return what a step needs, in words. Raises: BadConfig, if the GPU of this machine has less."""
    needed = sentence(row := count(config))
    if torch.cuda.is_available():
        gib = torch.cuda.get_device_properties(0).total_memory / GIB
        if row["total_gib"] > gib * USABLE:
            way_out = f"give +profile={gib:.0f}gb, or a smaller data.batch_size with trainer.accumulate_grad_batches"
            raise BadConfig(f"{needed}; this one has {gib:.1f} GiB: {way_out}")
    return needed


def smaller(config: DictConfig) -> Iterator[str]:
    """Change a configuration to need less and less memory, and yield how, in words."""
    yield "as it is"
    module = config.module
    if (module.get("autoencoder") or {}).get("frames_at_a_time", 1) > 1:
        module.autoencoder.frames_at_a_time = 1
        yield "with one frame at a time in the autoencoder"
    if "8bit" not in (module.get("optimizer") or {}).get("_target_", "8bit"):
        eight_bit: Any = OmegaConf.load(CONF_DIR / "optimization" / "adamw_8bit.yaml")
        module.optimizer._target_ = eight_bit._target_
        yield "with an 8-bit optimizer"
    if "lora" in module and module.lora.rank is None:
        module.lora.rank = 64
        yield "with an 8-bit optimizer, and LoRA of rank 64 in place of all weights"


def fit_to(config: DictConfig, profile: str | int) -> str:
    """Change a configuration so that its step fits a GPU of so many GB (`+profile=24gb`), and return how, in words.

    Each of the ways of `smaller` is tried with the most windows at a time that fit; `accumulate_grad_batches` makes up
    for fewer, so that a step has as many.
    Raises: BadConfig, for a profile that is no number of GB, or if nothing fits.
    """
    number = str(profile).removesuffix("gb")
    if not number.isdecimal() or int(number) == 0:
        raise BadConfig(f"profile={profile}: give the memory of one GPU, such as profile=24gb")
    usable, windows = int(number) * USABLE, int(config.data.batch_size)
    batches = int(config.trainer.accumulate_grad_batches)

    def at(size: int) -> dict[str, Any]:
        config.data.batch_size, config.trainer.accumulate_grad_batches = size, batches * windows // size
        return count(config)

    fewest = 1 if "losses" in config.module else 2  # SyncNet tells the windows of a batch apart
    how, row = "", {}
    for how in smaller(config):
        first, second = (at(min(windows, fewest * times))["total_gib"] for times in (1, 2))
        # More windows at a time than a straight line allows cannot fit; at most so many are counted.
        most = fewest + max(0, (usable - first) * fewest / (second - first)) if second > first else windows
        for size in (size for size in range(windows, fewest - 1, -1) if size <= most and windows % size == 0):
            row = at(size)
            if row["total_gib"] <= usable:
                chosen = f"data.batch_size={size} trainer.accumulate_grad_batches={batches * windows // size}"
                told = f"profile={profile}: {how}, {chosen}; {sentence(row)}"
                return told if fewest == 1 or size == windows else f"{told}; it compares within a batch only"
    raise BadConfig(f"profile={profile}: too small: {how}, {sentence(row)}; take a smaller experiment or clip")
