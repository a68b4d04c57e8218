"""Who a run is on wandb: one run however often it is resumed, with the settings by which runs are filtered."""

import hashlib
import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import wandb
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf, open_dict

from lipsync_lightning.errors import BadConfig

_ID = "wandb_id"  # in a run's folder
_PACKAGES = ("lipsync-lightning", "torch", "lightning", "diffusers", "webdataset")


@rank_zero_only
def identify(config: DictConfig, run_dir: Path) -> None:
    """Let wandb's logger, where there is one, go on with the run of this folder, and put the jobs of a sweep together.

    Raises: BadConfig, if wandb is to be online and nobody is logged in.
    """
    if config.logger.get("wandb") is None:
        return
    chosen = config.logger.wandb
    is_online = not chosen.get("offline") and os.environ.get("WANDB_MODE", "online") == "online"
    if is_online and not wandb.login(prompt=False):
        raise BadConfig("logger.wandb.offline=false: nobody is logged in; run `wandb login`, or set WANDB_API_KEY")
    kept = run_dir / _ID
    if not kept.is_file():
        kept.write_text(uuid4().hex[:16])
    with open_dict(chosen):
        chosen.id, chosen.resume = chosen.get("id") or kept.read_text().strip(), "allow"
        if chosen.get("group") is None and HydraConfig.get().mode == RunMode.MULTIRUN:
            chosen.group = str(HydraConfig.get().sweep.dir)


def identity(config: DictConfig, contents: dict[str, str]) -> dict[str, Any]:
    """Return what tells a run from others: its configuration, the library's commit, versions, what data it reads.

    Args: contents: of shards by name.
    """
    here = Path(__file__).parent
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    told: Any = OmegaConf.to_container(config, resolve=True)
    return {
        **told,
        "commit": git.stdout.strip() or None,
        "versions": {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "data_sha256": hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:16],
    }
