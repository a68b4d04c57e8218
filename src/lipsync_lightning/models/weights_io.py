"""Weights out of files and into networks, strictly: plain tensors only, and every name and shape has to fit."""

import json
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lipsync_lightning.errors import MissingWeights, WrongWeights

Network = TypeVar("Network", bound=nn.Module)

_CONTAINERS = ("state_dict", "model_state_dict", "module", "model")  # under which projects put the weights in a file
_WRAPPERS = ("module.", "_orig_mod.", "module.")  # DistributedDataParallel's and torch.compile's, in either order
_HALVES = (torch.float16, torch.bfloat16)
_DTYPES = (*_HALVES, torch.float32, torch.float64, torch.int64, torch.int32)  # the integers count a norm's batches
_NUM_LISTED = 5


def read_file(path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds: safetensors, or a torch file read with `weights_only=True`, which runs no code.

    Torch's own format is mapped into memory, so that a large file costs no more than what is used of it.
    Raises: FileNotFoundError; WrongWeights, if it is damaged or holds more than plain tensors.
    """
    with path.open("rb") as file:
        beginning = file.read(16)
    try:
        if path.suffix == ".safetensors" or beginning[8:9] == b"{":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise WrongWeights(
            f"{path} is refused: it begins with {beginning!r} and is no checkpoint of plain tensors, so reading it "
            "could run code; get it again, or ask its author for safetensors"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, LookupError, ValueError, OSError) as error:  # by kind of damage
        found = f"{path.stat().st_size:,} bytes that begin with {beginning!r}"
        raise WrongWeights(f"{path} is not a whole checkpoint: {found}; get it again") from error
    if not isinstance(content, dict):
        raise WrongWeights(f"{path} holds a {type(content).__name__} and no names; give a checkpoint")
    return content


def weights_of(content: Mapping[str, Any], path: object) -> dict[str, Tensor]:
    """Return the state dict in what a file holds, bare or in one of the usual wrappings.

    Raises: WrongWeights, for the checkpoint of a training run, no tensors, or several sets of them.
    """
    if "pytorch-lightning_version" in content:
        raise WrongWeights(
            f"{path} is a checkpoint of a training run; export it: python -m lipsync_lightning.export run=<run>"
        )
    inside = [content[name] for name in _CONTAINERS if isinstance(content.get(name), Mapping)]
    if len(inside) > 1:
        raise WrongWeights(f"{path} holds several sets of weights; save one in a file of its own")
    if inside:
        return dict(inside[0])
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WrongWeights(f"{path} holds no weights, only {list(content)[:_NUM_LISTED]}; give a checkpoint")
    return tensors


def plain_weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without a wrapper's prefixes, half-precision ones as float32 of the same value.

    Raises: WrongWeights, if a value is no finite tensor of a type that networks are trained in.
    """
    for name, value in state_dict.items():
        if not isinstance(value, Tensor) or value.dtype not in _DTYPES:
            came = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise WrongWeights(f"{name} is a {came}, expected a tensor of float16 to float64; get the file again")
        if not (value.is_meta or value.isfinite().all()):
            raise WrongWeights(f"{name} has values that are not finite; get the file again, or an earlier checkpoint")
    weights = dict(state_dict)
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return {name: tensor.float() if tensor.dtype in _HALVES else tensor for name, tensor in weights.items()}


def require_match(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], network: str) -> None:
    """Raises: WrongWeights, listing what is missing, unexpected or misshapen."""

    def described(tensor: Tensor) -> str:
        return f"{tuple(tensor.shape)}{'' if tensor.is_floating_point() else ' of whole numbers'}"

    pairs = [(key, described(given[key]), described(expected[key])) for key in expected if key in given]
    problems = {
        "missing": [key for key in expected if key not in given],
        "unexpected": [key for key in given if key not in expected],
        "misshapen": [f"{key} {came} instead of {wanted}" for key, came, wanted in pairs if came != wanted],
    }
    listed = [f"{len(keys)} {kind}: {', '.join(keys[:_NUM_LISTED])}" for kind, keys in problems.items() if keys]
    if listed:
        raise WrongWeights(
            f"these weights do not fit {network}, {len(expected)} entries expected, {len(given)} given "
            f"({'; '.join(listed)}); give weights and configuration that belong together"
        )


def filled(build: Callable[[], Network], weights: Mapping[str, Tensor]) -> Network:
    """Return the network that `build` makes, holding these weights (shared, not copied), in eval mode, on their device.

    Nothing is initialised first, so a network of a billion parameters takes no longer than its weights do to read.
    The weights have the network's own names and are known to fit.
    """
    with torch.device("meta"):
        network = build()
    network.load_state_dict(dict(weights), assign=True)
    device = next(iter(weights.values())).device
    return (network if device.type == "meta" else network.to(device)).eval()  # constants were made on the CPU


def load_matching(
    network: nn.Module, state_dict: Mapping[str, Tensor], allowed_missing: tuple[str, ...] = ("motion_modules.",)
) -> list[str]:
    """Copy the weights into a network and return the names it keeps as they were.

    Args:
        state_dict: weights under the network's own names.
        allowed_missing: a name that contains one of these may be absent: by default temporal modules, as when stage 2
            starts from stage 1. Everything else has to be there, in the right shape, and nothing more.
    Raises: WrongWeights, if names or shapes do not fit.
    """
    expected = network.state_dict()
    kept = [key for key in expected if key not in state_dict and any(part in key for part in allowed_missing)]
    needed = {key: tensor for key, tensor in expected.items() if key not in kept}
    require_match(needed, state_dict, type(network).__name__)
    network.load_state_dict(dict(state_dict), strict=False)
    return kept


def frozen(network: Network) -> Network:
    """Return the network in eval mode with no trainable parameter; gradients still pass through to its input."""
    return network.eval().requires_grad_(False)


def enable_checkpointing(*modules: nn.Module) -> None:
    """Let the outermost networks that can do so compute again in backward what they would otherwise keep."""
    for module in modules:
        if getattr(module, "_supports_gradient_checkpointing", False):
            cast(ModelMixin, module).enable_gradient_checkpointing()
        else:
            enable_checkpointing(*module.children())


def store_in(dtype: torch.dtype, network: nn.Module, *, fewest_dims: int = 0) -> None:
    """Store a network's weights in another type; those of fewer dimensions, such as norms and biases, stay."""
    for parameter in network.parameters():
        if parameter.ndim >= fewest_dims:
            parameter.data = parameter.data.to(dtype)


def pretrained(*, network: type[ModelMixin], path: str, get_with: str) -> ModelMixin:
    """Return a frozen network of class `network`, loaded from a folder that `save_pretrained` wrote.

    Args: get_with: the command that makes or downloads the folder; part of the error.
    Raises: MissingWeights, if the folder holds no network; WrongWeights, if it holds another one.
    """
    name = network.__name__
    if not (Path(path) / "config.json").is_file():
        raise MissingWeights(f"no {name} at {path} (no config.json there); get it with: {get_with}")
    try:
        answer = network.from_pretrained(path, low_cpu_mem_usage=False, output_loading_info=True)
        loaded, report = cast(tuple[ModelMixin, dict[str, list[str]]], answer)
        differing = sorted([*report["missing_keys"], *report["unexpected_keys"]])
        if differing:  # diffusers would only warn
            raise ValueError(f"missing or unknown {differing[:_NUM_LISTED]}")
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise WrongWeights(f"{path} does not hold a {name}: {reason}; get it with: {get_with}") from error
    return frozen(loaded)


def fingerprint(network: nn.Module, leave_out: Sequence[nn.Module] = ()) -> str:
    """Return a hash of a network's weights: what was stored with these belongs to it and to no other.

    Args: leave_out: parts of it that do not count.
    """
    digest = sha256()
    prefixes = tuple(f"{name}." for name, part in network.named_modules() if any(part is each for each in leave_out))
    for name, tensor in sorted(network.state_dict().items()):
        if name.startswith(prefixes):
            continue
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fingerprint_with_settings(network: ModelMixin) -> str:
    """Return a hash of a network's class, settings and weights."""
    settings = {key: value for key, value in dict(network.config).items() if not key.startswith("_")}
    told = json.dumps([type(network).__name__, settings, fingerprint(network)], sort_keys=True)
    return sha256(told.encode()).hexdigest()
