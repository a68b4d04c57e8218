import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from lipsync_lightning.callbacks.save_networks import SaveNetworks
from lipsync_lightning.models.syncnet import StableSyncNet


class Learner(LightningModule):
    def __init__(self, syncnet: StableSyncNet, interrupted: bool) -> None:
        super().__init__()
        self.syncnet = syncnet
        self.interrupt = interrupted

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        if self.interrupt:
            raise KeyboardInterrupt
        return self.syncnet.embed_mel(batch)[:, 0].sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(run_dir, syncnet, interrupted: bool) -> None:
    trainer = Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[SaveNetworks(run_dir=str(run_dir), networks=["syncnet"])],
    )
    trainer.fit(Learner(syncnet, interrupted), DataLoader(torch.randn(2, 1, 80, 13), batch_size=2))


def test_the_trained_network_is_in_a_folder_that_loads(tmp_path, tiny_syncnet):
    train(tmp_path, tiny_syncnet, interrupted=False)
    loaded = StableSyncNet.from_pretrained(tmp_path / "syncnet").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tiny_syncnet.state_dict().items())


def test_an_interrupted_run_does_not_look_finished(tmp_path, tiny_syncnet):
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(tmp_path, tiny_syncnet, interrupted=True)
    assert not (tmp_path / "syncnet").exists()
