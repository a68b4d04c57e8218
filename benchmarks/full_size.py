"""`python benchmarks/full_size.py [experiment…] [--set key=value…] [--json file]`: what full size needs, counted.

Each experiment is built from its YAML and takes a training step, a validation batch and an inference window on fake
tensors: shapes and types without values, so neither weights nor a GPU are needed. Every operation is seen by a meter
that adds up memory that is alive, operations by PyTorch's formulas, and bytes read and written. The processor's own
autocast stands in for CUDA's, made to follow its rules where they differ. Workspaces of libraries and copies of layouts
are not seen, so peaks are lower bounds. A roofline is the time that operations and bytes need at the card's peaks.
"""

import argparse
import json
import sys
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from diffusers import AutoencoderKL
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils import checkpoint
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from lipsync_lightning.cli import build
from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.files import CONF_DIR
from lipsync_lightning.losses.lpips import untrained_lpips
from lipsync_lightning.models import released
from lipsync_lightning.models.autoencoder import StableDiffusionAutoencoder
from lipsync_lightning.models.syncnet import StableSyncNet
from lipsync_lightning.models.videomae import VideoMAEFeatures
from lipsync_lightning.models.weights_io import frozen

EXPERIMENTS = ("syncnet", "stage1", "stage1_512", "stage1_latents", "stage2", "stage2_512", "stage2_efficient")
WHAT = ("step", "validation", "inference")
GIB = 2**30
# bf16 operations and bytes a second, from the makers' data sheets.
CARDS = {"A100": (312e12, 2.0e12), "H100": (989e12, 3.35e12), "4090": (165e12, 1.0e12)}
TOKENS, WIDTH = 50, 384  # of Whisper tiny, for each frame
VAE: dict[str, Any] = {  # of stabilityai/sd-vae-ft-mse
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
}
_VIEWS = {  # operations that move nothing
    *("view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "detach", "alias", "unsqueeze"),
    *("squeeze", "as_strided", "split", "unbind", "chunk", "split_with_sizes", "_reshape_alias", "lift_fresh"),
}
_READ_ON_HOST = ("_local_scalar_dense", "is_nonzero")


class Meter(TorchDispatchMode):
    """Counts what passes: bytes alive and their peak, operations, bytes moved, kernels, values the host waits for.

    What the host asks of a value that fake tensors do not have is answered with 1: all clips count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}  # bytes by storage
        self.live = self.peak = self.flops = self.moved = self.kernels = self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._overloadpacket.__name__
        if name in _READ_ON_HOST:
            self.waits += 1
            return 1
        out = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if made and name not in _VIEWS:
            read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            self.kernels += 1
            self.moved += sum(each.numel() * each.element_size() for each in (*read, *made))
        for tensor in made:
            self._note(tensor.untyped_storage())
        return out

    def _note(self, storage: Any) -> None:
        key = storage._cdata
        if key in self.alive:
            return
        self.alive[key] = storage.nbytes()
        self.live += self.alive[key]
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.live -= self.alive.pop(key, 0)


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Autocast to bf16 as CUDA does it: norms in float32, attention by flash or memory-efficient kernels."""

    def attention(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            query, key, value = (each.bfloat16() for each in (query, key, value))
        ops: Any = torch.ops.aten
        if query.shape[-1] <= 256 and query.dtype != torch.float32:
            return ops._scaled_dot_product_flash_attention(query, key, value)[0]
        learns = query.requires_grad or key.requires_grad
        return ops._scaled_dot_product_efficient_attention(query, key, value, None, learns)[0]

    def in_float32(norm: Any) -> Any:
        return lambda input, *rest, **more: norm(
            input.float() if torch.is_autocast_enabled("cpu") else input, *rest, **more
        )

    plain_checkpoint = partial(checkpoint.checkpoint, preserve_rng_state=False)
    with ExitStack() as stack:
        stack.enter_context(patch.object(functional, "scaled_dot_product_attention", attention))
        for name in ("group_norm", "layer_norm"):
            stack.enter_context(patch.object(functional, name, in_float32(getattr(functional, name))))
        for module in [each for name, each in list(sys.modules.items()) if name.startswith(("lipsync_", "diffusers."))]:
            if vars(module).get("checkpoint") is checkpoint.checkpoint:
                stack.enter_context(patch.object(module, "checkpoint", plain_checkpoint))
        stack.enter_context(patch.object(checkpoint, "checkpoint", plain_checkpoint))
        yield


@contextmanager
def without_files() -> Iterator[None]:
    """Networks of the released shapes in place of those whose weights lie in files."""

    def syncnet(*, path: str, **_: Any) -> StableSyncNet:
        shape = OmegaConf.load(CONF_DIR / "models" / "syncnet" / "stable_16px_attn.yaml")
        if "latent" in path:
            shape = compose("train", overrides=["+experiment=syncnet_latent"]).module.syncnet
        return frozen(build(shape))

    def videomae(*, num_frames: int, **_: Any) -> VideoMAEFeatures:
        sizes = dict(released.VIDEOMAE_CONFIG)
        width, ratio = sizes["embed_dim"], sizes.pop("mlp_ratio")
        sizes |= {"image_size": sizes.pop("img_size"), "num_frames": num_frames, "mlp_width": int(width * ratio)}
        del sizes["all_frames"]
        return frozen(VideoMAEFeatures(**sizes))

    def vae(*, path: str, **options: Any) -> StableDiffusionAutoencoder:
        return frozen(StableDiffusionAutoencoder(vae=AutoencoderKL(**VAE), **options))

    places = {
        "lipsync_lightning.models.released.stable_diffusion_autoencoder": vae,
        "lipsync_lightning.models.released.stable_syncnet": syncnet,
        "lipsync_lightning.models.released.videomae": videomae,
        "lipsync_lightning.models.weights_io.pretrained": syncnet,
        "lipsync_lightning.losses.lpips.vgg_lpips": lambda **_: untrained_lpips(),
        "lipsync_lightning.modules.unet_base.fingerprint": lambda _: "",
    }
    with ExitStack() as stack:
        for place, instead in places.items():
            stack.enter_context(patch(place, instead))
        yield


def batch_of(config: DictConfig, clip: ClipSpec, size: int) -> dict[str, Any]:
    """Return a batch as the experiment's samples give it, on the device."""
    side, frames = clip.resolution, clip.num_frames
    kind = config.data.samples._target_.rpartition(".")[2]
    batch: dict[str, Any] = {"id": [str(n) for n in range(size)], "seed": torch.arange(size)}
    if kind == "SyncNetSamples":
        mel = torch.empty(size, 1, clip.num_mels, clip.mel_columns)
        return batch | {"frames": torch.empty(size, frames, 3, side, side), "mel": mel}
    batch["keep_mask"] = torch.empty(size, 1, side, side)
    batch["audio"] = torch.empty(size, frames, TOKENS, WIDTH)
    if kind == "LatentSamples":
        shape = (size, frames, 2, 4, side // 8, side // 8)
        names = ("latents", "masked_latents", "reference_latents")
        return batch | {name: torch.empty(shape, dtype=torch.float16) for name in names} | {"made_by": [""] * size}
    batch["mel"] = torch.empty(size, 1, clip.num_mels, clip.mel_columns)
    return batch | {name: torch.empty(size, frames, 3, side, side) for name in ("frames", "reference")}


def bytes_of(parameters: Any) -> int:
    return sum(each.numel() * each.element_size() for each in parameters)


def static_parts(module: nn.Module) -> dict[str, int]:
    """Return the bytes that stay between steps, by what they are."""
    trained = bytes_of(each for each in module.parameters() if each.requires_grad)
    parts = {"weights": bytes_of((*module.parameters(), *module.buffers())), "gradients": trained}
    parts["optimizer"] = 2 * trained  # AdamW's two moments
    return parts


def measured(config: DictConfig, wanted: Sequence[str] = WHAT) -> list[dict[str, Any]]:
    """Return the row of the training step, of the validation batch, and of an inference window where there is one."""
    size, clip = int(config.data.batch_size), build(config.clip)
    if "frozen_dtype" in config.module:
        config.module.frozen_dtype = "bfloat16"  # as where GPUs are
    rows: list[dict[str, Any]] = []
    with FakeTensorMode(allow_non_fake_inputs=True), without_files(), as_on_a_gpu():
        module: Any = build(config.module)
        module.log = module.log_dict = lambda *_, **__: None
        for metric in (each for each in module.modules() if hasattr(each, "nan_strategy")):
            metric.nan_strategy = "disable"  # or it would pick out values, of which there are none
        autocast = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
        for what in wanted:
            if what == "inference" and not config.data.samples._target_.endswith(".UNetSamples"):
                continue
            module.train(what == "step")
            started, meter = time.perf_counter(), Meter()
            with meter:
                batch = batch_of(config, clip, size)
                if what == "step":
                    with autocast():
                        loss = module.training_step(batch, 0)
                    loss.backward()
                    del loss
                    grown = sum(each.grad is not None for each in module.parameters())
                    assert grown, "nothing learned"
                elif what == "validation":
                    with torch.no_grad(), autocast():
                        module.validation_step(batch, 0)
                else:
                    for each in (*module.unet.parameters(), *module.unet.buffers()):
                        each.data = each.data.to(torch.bfloat16)  # as `infer dtype=bfloat16`
                    with torch.no_grad():
                        module.generate({key: value[:1] for key, value in batch.items()})
            # Gradients are made within the step, so its peak counts them.
            resident = static_parts(module)
            if what == "inference":
                networks = (each for part in (module.unet, module.autoencoder) for each in part.parameters())
                resident = {"weights": bytes_of(networks)}
            elif what == "validation":
                del resident["gradients"]
            static = sum(resident.values())
            before = static - resident.get("gradients", 0)
            module.zero_grad(set_to_none=True)
            del batch
            rows.append(
                {
                    **{"experiment": str(config.name), "what": what, "batch_size": 1 if what == "inference" else size},
                    **{"resolution": clip.resolution, "static_gib": static / GIB, "peak_gib": meter.peak / GIB},
                    **{"total_gib": (before + meter.peak) / GIB, "tflop": meter.flops / 1e12, "kernels": meter.kernels},
                    **{"moved_tb": meter.moved / 1e12, "host_waits": meter.waits},
                    **{f"{card}_s": max(meter.flops / f, meter.moved / b) for card, (f, b) in CARDS.items()},
                    "counted_in_s": time.perf_counter() - started,
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", default=EXPERIMENTS)
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", help="overrides, as for train")
    parser.add_argument("--json", type=Path, help="a file for the rows")
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    columns = (
        "experiment",
        "what",
        "batch_size",
        "resolution",
        "static_gib",
        "peak_gib",
        "total_gib",
        "tflop",
        "moved_tb",
    )
    columns += ("kernels", "host_waits", *(f"{card}_s" for card in CARDS))
    print("| " + " | ".join(columns) + " |\n| --- | --- |" + " ---: |" * (len(columns) - 2))
    for experiment in asked.experiments:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
            found = measured(compose("train", overrides=[f"+experiment={experiment}", *asked.overrides]))
        for row in found:
            cells = (f"{value:.2f}" if isinstance(value, float) else str(value) for value in map(row.get, columns))
            print("| " + " | ".join(cells) + " |", flush=True)
        rows += found
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
