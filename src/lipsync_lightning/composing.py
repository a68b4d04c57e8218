"""From a command line to a configuration in which nothing is left of a part that was exchanged."""

import os
import re
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.files import PLUGINS

# The last names of keys whose values are paths; `shards` may be a list or a mapping of them.
_PATHS = {"video", "audio", "videos", "out", "model", "run", "source", "inspect", "decoder", "model_config", "path"}
_PATHS |= {"segments", "batch", "report", "certificate", "key", "face"}  # x,y is no list either
_PATHS |= {"shards", "run_dir", "demo_dir", "runs_dir", "cache_dir", "init_from", "ckpt_path", "root", "lists"}
_UNKNOWN_TO_HYDRA = re.compile(r"[^\w\s/\-+.$%*@:?|=,()\[\]{}'\"\\]|[^\x00-\x7f]")
ADDABLE = ("memory", "profile")  # keys that no YAML has, and commands read
_LIKE_A_FLAG = re.compile(r"--(?!cfg=|info=|package=)([\w.@/]+=.*)", re.DOTALL)  # as wandb's agent gives keys


class ExtensionsSearched(SearchPathPlugin):
    """The YAML of installed packages is searched last, whatever `hydra.searchpath` a command has."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for each in sorted(entry_points(group=PLUGINS), key=lambda each: each.name):
            search_path.append(provider=each.name, path=f"pkg://{each.value}")


Plugins.instance().register(ExtensionsSearched)


def hydra_arguments(arguments: list[str]) -> list[str]:
    """Return a command line's arguments as Hydra takes them.

    `--key=value` becomes `key=value`, a folder after `--config-path` or `--config-dir` is found from the working
    directory, and values are quoted where needed: paths are taken as they are, but for commas where commas sweep.
    """
    given: list[str] = []
    sweeps = bool({"-m", "--multirun"} & set(arguments))
    for argument in arguments:
        before = given[-1] if given else ""
        flag, equals, folder = argument.rpartition("=")
        if before in ("--config-path", "-cp", "--config-dir", "-cd") and Path(argument).is_dir():
            argument = str(Path(argument).resolve())
        elif flag in ("--config-path", "--config-dir") and Path(folder).is_dir():
            argument = f"{flag}{equals}{Path(folder).resolve()}"
        elif not before.startswith("-c") and not before.startswith("--config"):
            argument = quoted(_LIKE_A_FLAG.sub(r"\1", argument), sweeps=sweeps)
        given.append(argument)
    return given


def quoted(argument: str, *, sweeps: bool = False) -> str:
    """Return an override with its value in quotes where Hydra would take it for something else.

    A path is quoted unless it means itself; values that are quoted, `null`, `${...}`, and lists of shards stay what
    they are, if no file is called so. Of other values those are quoted whose letters Hydra's grammar does not know,
    such as ä or &, but no lists or mappings.
    """
    key, equals, value = argument.partition("=")
    parents, _, name = key.lstrip("+").rpartition(".")
    if not equals or key.startswith("~"):
        return argument
    if name in _PATHS or parents == "models":
        literal = value.replace("${", r"\${") if os.path.lexists(value) else value
        as_it_is = literal == value and _means(argument, value, sweeps=sweeps, may_be_many=name == "shards")
    else:
        literal = value
        as_it_is = value.startswith(("'", '"', "[", "{")) or not _UNKNOWN_TO_HYDRA.search(value)
    return argument if as_it_is else f"{key}={QuotedString(literal, Quote.double).with_quotes()}"


def _means(argument: str, value: str, *, sweeps: bool, may_be_many: bool) -> bool:
    """Return whether Hydra understands a path as it is meant: as the name of a file, or as what else it may be."""
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    understood = None if override.is_sweep_override() else override.value()
    if understood == value or os.path.lexists(value):
        return understood == value
    if override.is_sweep_override():
        return sweeps
    is_quoted = isinstance(understood, str) and value.startswith(("'", '"'))
    return is_quoted or value in ("", "null") or "${" in value or (may_be_many and isinstance(understood, list | dict))


def without_leftovers(config: DictConfig) -> DictConfig:
    """Return the configuration with each part that the command line exchanges as its own YAML says.

    Hydra leaves what an experiment says of the former part on the new one: `optimization@module.schedule=constant`
    would be given the warm-up of the schedule before. Such values are dropped, and it is said. What the command line
    itself says of the part stays.
    """
    given = OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task))
    exchanged = [each for each in given if each.package and isinstance(each.value(), str) and not each.is_delete()]
    exchanged.sort(key=lambda each: str(each.package).count("."))  # outer parts before those in them
    config = config.copy()
    for part in exchanged:
        place = str(part.package)
        alone = _alone(f"+{part.key_or_group}@{place}={part.value()}")
        for each in given:
            if each.package is None and each.key_or_group.startswith(f"{place}.") and not each.is_delete():
                wanted = OmegaConf.select(config, each.key_or_group, throw_on_missing=False)
                OmegaConf.update(alone, each.key_or_group, wanted, force_add=True)
        fresh, before = OmegaConf.select(alone, place), OmegaConf.select(config, place)
        dropped = _differences(before, fresh)
        if dropped:
            print(f"{part.input_line}: without {', '.join(dropped)}, said of the part before", file=sys.stderr)
        with open_dict(config):
            OmegaConf.update(config, place, fresh, merge=False)
    return config


def require_kinds(config: DictConfig) -> None:
    """Raises: BadConfig, for words, null or NaN where a YAML has a number, for what is no switch, and for unknown keys.

    What a YAML has is what it says without the values of this command line; only Lightning's own keys may be null.
    """
    hydra, loader = HydraConfig.get(), GlobalHydra.instance().config_loader()
    given = OverridesParser.create().parse_overrides(list(hydra.overrides.task))
    groups = [each for each in given if each.get_key_element().lstrip("+~") in hydra.runtime.choices]
    own = [each for each in given if each not in groups and not each.key_or_group.startswith("hydra.")]
    lines = [str(each.input_line) for each in given if each not in own]
    plain = loader.load_configuration(hydra.job.config_name, lines, RunMode.RUN)
    values = [each for each in own if not each.is_delete()]
    for each in values:
        key = each.key_or_group
        value = OmegaConf.select(config, key, default=...)
        usual = OmegaConf.select(plain, key, throw_on_missing=False)
        if value is ...:  # another override removes what it is part of
            continue
        means_none = value is None or isinstance(value, str | bool) or value != value  # lists and mappings may be meant
        if isinstance(usual, bool) and not isinstance(value, bool):
            raise BadConfig(f"{key}={value}: give true or false")
        may_be_off = key.startswith("trainer.") and (value is None or isinstance(value, bool))
        if means_none and isinstance(usual, int | float) and not (isinstance(usual, bool) or may_be_off):
            raise BadConfig(f"{key}={value}: give a number, such as {usual}")
        if each.is_add() and "." not in key and key not in plain and key not in ADDABLE:
            raise BadConfig(f"+{key}={value}: there is no such key; --help lists them")


def _alone(choice: str) -> DictConfig:
    """Return what a group's YAML says where nothing else says anything."""
    loader = GlobalHydra.instance().config_loader()
    alone = loader.load_configuration(config_name=None, overrides=[choice], run_mode=RunMode.RUN)
    with open_dict(alone):
        alone.pop("hydra", None)
    OmegaConf.set_struct(alone, False)
    return alone


def _differences(before: Any, fresh: Any) -> list[str]:
    """Return `key=value` of what is in one part and is not so in the other."""
    flat_before, flat_fresh = (flat(OmegaConf.to_container(each)) for each in (before, fresh))
    return [f"{key}={value}" for key, value in flat_before.items() if flat_fresh.get(key, ...) != value]


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of a nested mapping by dotted keys."""
    if not isinstance(node, dict):
        return {prefix: node}
    return {k: v for key, value in node.items() for k, v in flat(value, f"{prefix}.{key}" if prefix else key).items()}
