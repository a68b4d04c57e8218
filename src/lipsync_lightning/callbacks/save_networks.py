"""The trained networks of a finished run, each in a folder that `from_pretrained` reads."""

from collections.abc import Sequence
from pathlib import Path

from lightning import Callback, LightningModule, Trainer


class SaveNetworks(Callback):
    """Saves the named networks under the run's folder when training ends."""

    def __init__(self, *, run_dir: str, networks: Sequence[str]) -> None:
        """Args: networks: attributes of the module, diffusers models; each becomes `run_dir/<name>`."""
        self.run_dir = Path(run_dir)
        self.networks = list(networks)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not trainer.interrupted:
            for name in self.networks:
                getattr(pl_module, name).save_pretrained(self.run_dir / name)
