"""Networks that judge or encode but never learn."""

from pathlib import Path
from typing import TypeVar, cast

from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from lipsync_lightning.errors import MissingWeights, WrongWeights

Network = TypeVar("Network", bound=nn.Module)


def frozen(network: Network) -> Network:
    """Return the network in eval mode with no trainable parameter; gradients still pass through to its input."""
    return network.eval().requires_grad_(False)


def pretrained(*, network: type[ModelMixin], path: str, get_with: str) -> ModelMixin:
    """Return a network of class `network`, loaded from a folder that `save_pretrained` wrote.

    Args:
        get_with: the command that makes or downloads the folder; part of the error.
    Raises: MissingWeights, if the folder holds no network; WrongWeights, if it holds another one.
    """
    if not (Path(path) / "config.json").is_file():
        raise MissingWeights(f"no {network.__name__} at {path} (no config.json there); get it with: {get_with}")
    try:
        answer = network.from_pretrained(path, low_cpu_mem_usage=False, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise WrongWeights(f"{path} does not hold a {network.__name__}: {reason}; get it with: {get_with}") from error
    loaded, report = cast(tuple[ModelMixin, dict[str, list[str]]], answer)
    differing = sorted([*report["missing_keys"], *report["unexpected_keys"]])
    if differing:  # diffusers would only warn
        raise WrongWeights(
            f"{path} does not hold a whole {network.__name__}: missing or unknown {differing[:3]}; get it with: {get_with}"
        )
    return frozen(loaded)
