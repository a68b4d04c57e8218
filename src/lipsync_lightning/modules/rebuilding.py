"""A module built again from nothing but its checkpoint, which says of what it was built."""

from collections.abc import Mapping
from functools import partial
from importlib.metadata import entry_points
from inspect import signature
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Self

from lightning import LightningModule

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.files import PLUGINS
from lipsync_lightning.models.lora import BASE
from lipsync_lightning.models.weights_io import read_file

BUILT_OF = "built_of"  # in a checkpoint: the module's configuration, of plain values
_GET_CLASS = "hydra.utils.get_class"
_KNOWN = tuple(f"lipsync_lightning.{part}." for part in ("clip", "models", "losses", "modules"))
_KNOWN += ("torch.optim.", "diffusers.optimization.", "diffusers.schedulers.")


class RebuiltModule(LightningModule):
    """A module that `load_from_checkpoint` builds of what `train` wrote into the checkpoint."""

    @classmethod
    def load_from_checkpoint(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, checkpoint_path: str | Path, map_location: Any = "cpu", **given: Any
    ) -> Self:
        """Return the trained module; with averaged weights, where the run averages them.

        Frozen networks are read from where the run's configuration found them, from the same working directory.

        Args: given: arguments of the constructor, instead of those the checkpoint tells or where it tells none.
        Raises: BadConfig, if an argument is missing, or if the checkpoint names code of a package that is neither this
            one nor installed as one of its extensions; MissingWeights, WrongWeights, ClipMismatch.
        """
        path = Path(checkpoint_path)
        state = read_file(path)
        told = {name: value for name, value in state.get(BUILT_OF, {}).items() if name not in given}
        trusted = (*_KNOWN, f"{cls.__module__.partition('.')[0]}.", *_extensions())
        kind = _found(told.pop("_target_", f"{cls.__module__}.{cls.__qualname__}"), trusted) if told else cls
        if not issubclass(kind, cls):
            raise BadConfig(f"{path} holds a {kind.__name__}; load it with {kind.__name__}.load_from_checkpoint")
        try:
            signature(kind).bind(**told, **given)
        except TypeError as error:
            why = "" if told else "; it tells nothing of its parts, for `train` of this version did not write it"
            way_out = f"give them to load_from_checkpoint as to {kind.__name__}"
            raise BadConfig(f"{path}: of the constructor's arguments, {error}{why}; {way_out}") from error
        module = kind(**_built(told, trusted), **given)
        if (told.get("lora") or {}).get("rank") is not None:
            module.load_weights(str(path.parents[1] / BASE))  # pyright: ignore[reportCallIssue]
        module.on_load_checkpoint(state)
        module.load_state_dict(state["state_dict"])
        return module.to(map_location)


def _extensions() -> set[str]:
    return {f"{each.value.partition('.')[0]}." for each in entry_points(group=PLUGINS)}


def _built(node: Any, trusted: tuple[str, ...]) -> Any:
    """Return what a plain configuration describes, as Hydra does. Raises: BadConfig, for code of unknown packages."""
    if isinstance(node, list):
        return [_built(each, trusted) for each in node]
    if not isinstance(node, Mapping):
        return node
    if node.get("_target_") == _GET_CLASS:
        return _found(node["path"], trusted)
    parts = {key: _built(value, trusted) for key, value in node.items() if key not in ("_target_", "_partial_")}
    if "_target_" not in node:
        return parts
    target = _found(node["_target_"], trusted)
    return partial(target, **parts) if node.get("_partial_") else target(**parts)


def _found(name: str, trusted: tuple[str, ...]) -> Any:
    """Return the class or function of that name, if it is made where it may be: a checkpoint could name anything."""
    package = name.partition(".")[0]
    if any(each.startswith(f"{package}.") for each in trusted):
        try:
            found = resolve_name(name)
        except (ImportError, AttributeError) as error:
            raise BadConfig(f"the checkpoint names {name}, which is not there; install its package") from error
        if f"{getattr(found, '__module__', None)}.".startswith(trusted):
            return found
    way_out = f"install {package} as an extension (docs/extending.md), or give that argument to load_from_checkpoint"
    raise BadConfig(f"the checkpoint names {name}, which is not of a package that checkpoints may name; {way_out}")
