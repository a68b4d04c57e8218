"""What every entry point shares: Hydra in front, errors as one sentence behind."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import hydra
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lipsync_lightning.errors import LipSyncError
from lipsync_lightning.paths import CONF_DIR, weights_dir

OmegaConf.register_new_resolver("where_gpus", lambda with_gpu, without: with_gpu if torch.cuda.is_available() else without, replace=True)
OmegaConf.register_new_resolver("weights", lambda name: str(weights_dir() / name), replace=True)


def entry_point(config_name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Return a decorator that makes a `main()` of a function of a composed configuration.

    Errors a user can act on are printed as one sentence and end the process with status 1.
    """

    def decorate(function: Callable[[DictConfig], None]) -> Callable[[], None]:
        @functools.wraps(function)
        def with_readable_errors(config: DictConfig) -> None:
            try:
                function(config)
            except (LipSyncError, InstantiationException, OmegaConfBaseException) as error:
                print(f"error: {one_sentence(error)}", file=sys.stderr)
                raise SystemExit(1) from None

        return hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=config_name)(with_readable_errors)

    return decorate


def one_sentence(error: BaseException) -> str:
    """Return what the user should read of an error: the first of our own in its chain of causes, else its own first line."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, LipSyncError):
            # A data worker's error arrives with the worker's traceback in front of its message.
            message = str(cause).rpartition(f"{type(cause).__module__}.{type(cause).__name__}: ")[2]
            return " ".join(message.split())
        cause = cause.__cause__
    return " ".join(str(error).split("\n")[:2])


def build(config: Any, **extra: Any) -> Any:
    """Return the object that a YAML with `_target_` describes, its lists and mappings as plain Python ones."""
    return hydra.utils.instantiate(config, _convert_="all", **extra)
