"""What every command shares: help and mistakes come before large imports, errors as one sentence."""

import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lipsync_lightning.composing import hydra_arguments, require_kinds, without_leftovers
from lipsync_lightning.errors import LipSyncError
from lipsync_lightning.files import CONF_DIR, weights_dir

FROZEN_DTYPES = {"bf16-mixed": "bfloat16"}  # by precision: where autocast computes in it, what never learns is kept so
_FOR_HYDRA = re.compile(r"^(defaults|hydra):\n(?:[ \-].*\n)*\n?", re.MULTILINE)


def _where_gpus(with_gpu: Any, without: Any) -> Any:
    if "torch" in sys.modules:
        return with_gpu if sys.modules["torch"].cuda.is_available() else without
    return with_gpu if Path("/dev/nvidia0").exists() else without  # while composing: nothing is built of it yet


OmegaConf.register_new_resolver("where_gpus", _where_gpus, replace=True)
OmegaConf.register_new_resolver("frozen_dtype", lambda mode: FROZEN_DTYPES.get(mode, "float32"), replace=True)
OmegaConf.register_new_resolver("weights", lambda name: str(weights_dir() / name), replace=True)
OmegaConf.register_new_resolver("conf_dir", lambda: str(CONF_DIR), replace=True)


def command(name: str, about: str | None, check: Callable[[DictConfig], None] | None = None) -> Callable[[], None]:
    """Return the `main()` of `python -m lipsync_lightning.<name>`.

    It composes `conf/<name>.yaml`, checks it, and only then imports `lipsync_lightning.commands.<name>` and calls its
    `run`. Errors a user can act on are printed as one sentence and end the process with status 1.

    Args: about: what `--help` begins with. check: raises BadConfig for settings that exclude each other.
    """

    def job(config: DictConfig) -> None:
        try:
            config = without_leftovers(config)
            require_kinds(config)
            if check is not None:
                check(config)
            import_module(f"lipsync_lightning.commands.{name}").run(config)
        except (LipSyncError, InstantiationException, OmegaConfBaseException, OSError) as error:
            sentence = f"error: {one_sentence(error)}"
            print(sentence, file=sys.stderr, flush=True)
            if HydraConfig.get().mode == RunMode.MULTIRUN:  # Hydra notes it, goes on and ends with status 1
                raise CompactHydraException(sentence) from error
            raise SystemExit(1) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(130) from None

    def main() -> None:
        sys.argv[1:] = hydra_arguments(sys.argv[1:])
        if {"--help", "-h"} & set(sys.argv):
            print(help_screen(name, about or ""))
            return
        hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=name)(job)()

    return main


def help_screen(name: str, about: str) -> str:
    """Return what a command does, its keys as its YAML has them, and the groups that `train` chooses from."""
    commands = sorted(path.stem for path in CONF_DIR.glob("*.yaml") if path.stem not in ("releases", "tool"))
    text = (CONF_DIR / f"{name}.yaml").read_text()
    lines = [about.strip(), "", f"Keys ({CONF_DIR / name}.yaml):", "", _FOR_HYDRA.sub("", text).strip(), ""]
    if name == "train":
        for group in ("experiment", "data", "trainer", "callbacks", "logger", "clip"):
            options = sorted(path.relative_to(CONF_DIR / group) for path in (CONF_DIR / group).rglob("*.yaml"))
            lines.append(f"{group}: {', '.join(str(option.with_suffix('')) for option in options)}")
    lines += ["", f"Commands: {', '.join(commands)}; python -m lipsync_lightning.<command> --help"]
    return "\n".join([*lines, "--cfg job prints the composed configuration, --hydra-help what Hydra's flags mean"])


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
