"""What every entry point shares: Hydra in front, errors as one sentence behind."""

import functools
import re
import sys
from collections.abc import Callable
from typing import Any

import hydra
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lipsync_lightning.errors import LipSyncError
from lipsync_lightning.files import CONF_DIR, weights_dir

_UNKNOWN_TO_HYDRA = re.compile(r"[^\w\s/\-+.$%*@:?|=,()\[\]{}'\"\\]|[^\x00-\x7f]")

OmegaConf.register_new_resolver(
    "where_gpus", lambda with_gpu, without: with_gpu if torch.cuda.is_available() else without, replace=True
)
FROZEN_DTYPES = {"bf16-mixed": "bfloat16"}  # by precision: where autocast computes in it, what never learns is kept so
OmegaConf.register_new_resolver("frozen_dtype", lambda mode: FROZEN_DTYPES.get(mode, "float32"), replace=True)
OmegaConf.register_new_resolver("weights", lambda name: str(weights_dir() / name), replace=True)
OmegaConf.register_new_resolver("conf_dir", lambda: str(CONF_DIR), replace=True)


def entry_point(config_name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Return a decorator that makes a `main()` of a function of a composed configuration.

    Errors a user can act on are printed as one sentence and end the process with status 1.
    """

    def decorate(function: Callable[[DictConfig], None]) -> Callable[[], None]:
        @functools.wraps(function)
        def with_readable_errors(config: DictConfig) -> None:
            try:
                function(config)
            except (LipSyncError, InstantiationException, OmegaConfBaseException, OSError) as error:
                print(f"error: {one_sentence(error)}", file=sys.stderr)
                raise SystemExit(1) from None
            except KeyboardInterrupt:
                print("interrupted", file=sys.stderr)
                raise SystemExit(130) from None

        hydra_main = hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=config_name)

        @functools.wraps(function)
        def main() -> None:
            sys.argv[1:] = [quoted(argument) for argument in sys.argv[1:]]
            hydra_main(with_readable_errors)()

        return main

    return decorate


def quoted(argument: str) -> str:
    """Return an override with its value in quotes where Hydra's grammar does not know its letters, such as ä or &.

    Values that are already quoted, lists and mappings are left as they are, and so is what has a meaning: commas sweep.
    """
    key, equals, value = argument.partition("=")
    if not equals or value.startswith(("'", '"', "[", "{")) or not _UNKNOWN_TO_HYDRA.search(value):
        return argument
    return '{}="{}"'.format(key, value.replace('"', '\\"'))


def one_sentence(error: BaseException) -> str:
    """Return what to tell of an error: the first of our own in its chain of causes, else its own first line."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, LipSyncError):
            # A data worker's error arrives with the worker's traceback in front of its message.
            message = str(cause).rpartition(f"{type(cause).__module__}.{type(cause).__name__}: ")[2]
            return " ".join(message.split())
        cause = cause.__cause__
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename or ''}".rstrip(": ")
    return " ".join(str(error).split("\n")[:2])


def build(config: Any, **extra: Any) -> Any:
    """Return the object that a YAML with `_target_` describes, its lists and mappings as plain Python ones."""
    return hydra.utils.instantiate(config, _convert_="all", **extra)
