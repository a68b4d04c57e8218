import sys
from functools import partial

import pytest
import torch
from lightning import LightningModule
from torch import Tensor
from torch.optim import AdamW

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.modules.hooks import FusedAdamW, adamw_8bit, optimizer_with_schedule
from small_training import fit


class Line(LightningModule):
    def __init__(self, optimizer) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)
        self.optimizer, self.schedule = optimizer, torch.optim.lr_scheduler.ConstantLR

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(batch).square().sum() * 1e3

    def configure_optimizers(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        return optimizer_with_schedule(self, self)


def trained(optimizer, precision: str, tmp_path) -> Tensor:
    torch.manual_seed(1)
    module = Line(lambda parameters: optimizer(parameters, lr=1e-2))
    batches = torch.utils.data.DataLoader(torch.randn(20, 4), batch_size=4)
    fit(module, batches, precision=precision, gradient_clip_val=1.0, default_root_dir=tmp_path)
    return module.layer.weight.detach()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_fused_optimizer_clips_and_steps_as_the_plain_one(precision, tmp_path):
    torch.testing.assert_close(
        trained(FusedAdamW, precision, tmp_path), trained(AdamW, precision, tmp_path), rtol=0, atol=1e-6
    )


def test_eight_bits_of_moments_learn_as_well_and_come_back_from_a_checkpoint(tmp_path):
    pytest.importorskip("bitsandbytes")  # of the extra `8bit`
    inputs, results = torch.randn(32, 64), []
    for resumed_at in (0, 10):
        torch.manual_seed(2)
        layer = torch.nn.Linear(64, 64)  # as many weights as get bytes
        optimizer = adamw_8bit(layer.parameters(), lr=1e-2)
        for step in range(20):
            if step == resumed_at > 0:
                torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
                optimizer = adamw_8bit(layer.parameters(), lr=1e-2)
                optimizer.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
            layer.zero_grad()
            loss = layer(inputs).square().mean()
            loss.backward()
            optimizer.step()
        results.append(layer.weight.detach())
    assert loss < 0.1
    assert torch.equal(*results)
    assert optimizer.state[layer.weight]["state1"].dtype == torch.uint8


def test_eight_bits_without_their_package_are_refused_with_the_command_that_gets_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(BadConfig, match=r"needs bitsandbytes; get it with: pip install 'lipsync-lightning\[8bit\]'"):
        adamw_8bit([])


def test_settings_that_the_optimizer_refuses_are_the_users_to_mend():
    with pytest.raises(BadConfig, match=r"module\.optimizer: Invalid learning rate: -1"):
        optimizer_with_schedule(module := Line(partial(AdamW, lr=-1)), module)
