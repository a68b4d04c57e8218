"""What a command's configuration must agree with, before anything large is imported."""

from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lipsync_lightning.errors import BadConfig

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "32", "bf16", "16")


def require_servable(config: DictConfig) -> None:
    """Raises: BadConfig, for settings that mean nothing or exclude each other."""
    trainer, data = config.trainer, config.data
    precision = str(trainer.precision)
    if precision not in PRECISIONS:
        keep = "weights, averages and the noise schedule are kept in float32"
        raise BadConfig(f"trainer.precision={precision}: {keep}; give bf16-mixed, 16-mixed or 32-true")
    if not trainer.log_every_n_steps:
        raise BadConfig("trainer.log_every_n_steps=0: skipped steps are told when the trainer logs; give 1 or more")
    for key in ("run_dir", "data.shards"):
        if OmegaConf.select(config, key, default="") is None:
            raise BadConfig(f"{key}=null: give a folder")
    if not 0 <= config.seed < 2**32:
        raise BadConfig(f"seed={config.seed}: give a number from 0 to {2**32 - 1}")
    for key in ("max_steps", "max_epochs", "limit_train_batches", "accumulate_grad_batches"):
        if trainer.get(key) == 0:
            raise BadConfig(f"trainer.{key}=0: nothing would be trained; give more")
    if (trainer.get("gradient_clip_val") or 0) < 0:
        raise BadConfig(f"trainer.gradient_clip_val={trainer.gradient_clip_val}: give a number above 0, or null")
    if config.checkpoint != "last" and config.init_from is None:
        raise BadConfig(f"checkpoint={config.checkpoint} chooses of the run that init_from= names; give that too")
    if data.batch_size < 1 or data.num_workers < 0:
        told = f"data.batch_size={data.batch_size} data.num_workers={data.num_workers}"
        raise BadConfig(f"{told}: give 1 or more windows, and 0 or more workers")
    if trainer.get("reload_dataloaders_every_n_epochs"):
        raise BadConfig("trainer.reload_dataloaders_every_n_epochs: shards are read as they were when the run began")
    in_float32 = OmegaConf.select(config, "module.lora.rank") is not None and precision.startswith("32")
    dtypes = ("float32",) if in_float32 else ("float32", "bfloat16", "float16")
    if config.module.get("frozen_dtype", "float32") not in dtypes:
        told = f"module.frozen_dtype={config.module.frozen_dtype} with trainer.precision={precision}"
        raise BadConfig(f"{told}: give {' or '.join(dtypes)}")
    if config.get("memory", "forecast") != "forecast":
        raise BadConfig(f"memory={config.memory}: +memory=forecast says what a step needs; nothing else is known")
    for name, callback in config.callbacks.items():
        if callback is not None and "_target_" not in callback:
            groups = "such as 'callbacks=[syncnet,ema]' or 'callbacks=[film_strips,ema]'"
            raise BadConfig(
                f"callbacks.{name} has settings, but none of the groups that `callbacks=` names has it; name one that "
                f"has it too, {groups}, or drop its settings: '~callbacks.{name}'"
            )


def given(*keys: str) -> Callable[[DictConfig], None]:
    """Return a check that these keys have values."""

    def check(config: DictConfig) -> None:
        missing = [key for key in keys if OmegaConf.is_missing(config, key)]
        if missing:
            raise BadConfig(f"give {' '.join(f'{key}=' for key in missing)}; --help says what they mean")

    return check


def require_job(config: DictConfig) -> None:
    """Raises: BadConfig, if it does not say what is lip-synced, or listed, or whereto, or signed by whom."""
    signer = [config.c2pa.certificate, config.c2pa.key]
    if signer != [None, None] and not all(path and Path(path).is_file() for path in signer):
        raise BadConfig(f"c2pa.certificate={signer[0]} c2pa.key={signer[1]}: give two PEM files that are there")
    if config.batch and config.report:
        raise BadConfig(f"report={config.report}: batch= writes a report of its own; drop one of the two")
    is_listing = config.faces["_target_"].endswith("EveryoneListed")
    needed = ["video", "out"] if is_listing else ["model"] if config.batch else ["model", "video", "out"]
    missing = [f"{key}=" for key in needed if OmegaConf.is_missing(config, key) or config[key] is None]
    if not (is_listing or config.batch or config.segments or config.audio):
        missing.append("audio=")
    if missing:
        raise BadConfig(f"give {' '.join(missing)}; --help says what they mean")
    if is_listing and not str(config.out).lower().endswith(".png"):
        raise BadConfig(f"out={config.out}: faces=list writes a picture; give a name that ends in .png")


def require_models(config: DictConfig) -> None:
    """Raises: BadConfig, if nothing is to be judged, or nowhere."""
    if not config.models:
        raise BadConfig("models is empty: name at least one export or run, such as +models.mine=<folder>")
    given("videos", "out")(config)


def require_one_source(config: DictConfig) -> None:
    """Raises: BadConfig, if it does not say what is exported, or whereto."""
    if sum(config[key] is not None for key in ("run", "fetch", "source")) != 1:
        raise BadConfig("give one of run=, fetch= and source=")
    if (config.out is None and config.fetch is None) or config.to not in ("export", "latentsync"):
        raise BadConfig("give out=<folder>, or to=latentsync out=<file.pt>")
