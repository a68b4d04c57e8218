from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lipsync_lightning.callbacks.skip_nonfinite import SkipNonfinite
from lipsync_lightning.errors import StepFailed


class Line(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen: list[Tensor] = []

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        self.seen.append(self.layer.weight.detach().clone())
        return (self.layer(torch.ones(1, 1)) * batch["factor"]).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1)


def batches(factors: list[float]) -> list[dict]:
    return [{"factor": torch.tensor(factor), "id": [f"clip {number}"]} for number, factor in enumerate(factors)]


def trained(
    folder: Path, factors: list[float], most_in_a_row: int = 2, accumulate: int = 1
) -> tuple[Line, SkipNonfinite, Trainer]:
    torch.manual_seed(0)
    module, callback = Line(), SkipNonfinite(most_in_a_row=most_in_a_row)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accumulate_grad_batches=accumulate, gradient_clip_val=1.0, callbacks=[callback], default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(module, DataLoader(batches(factors), batch_size=None))  # pyright: ignore[reportArgumentType]
    return module, callback, trainer


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing_and_is_named_and_counted(tmp_path, bad):
    with pytest.warns(
        UserWarning, match=r"step 1: the gradient is not finite, the step is left out \(clips clip 1 on rank 0\)"
    ):
        module, callback, trainer = trained(tmp_path, [1.0, bad, 1.0])
    assert torch.equal(module.seen[1], module.seen[2])
    assert not torch.equal(module.seen[0], module.seen[1])
    assert callback.skipped == 1
    assert float(trainer.callback_metrics["train/skipped_steps"]) == 1


def test_the_optimizer_goes_on_as_if_the_step_had_not_been(tmp_path):
    with pytest.warns(UserWarning, match="not finite"):
        with_bad, _, _ = trained(tmp_path, [1.0, float("nan"), 2.0])
    without, _, _ = trained(tmp_path, [1.0, 2.0])
    assert torch.equal(with_bad.layer.weight, without.layer.weight)


def test_all_clips_of_an_accumulated_step_are_named(tmp_path):
    with pytest.warns(UserWarning, match=r"\(clips clip 0, clip 1 on rank 0\)"):
        trained(tmp_path, [1.0, float("nan"), 1.0, 1.0], accumulate=2)


def test_too_many_such_steps_in_a_row_end_the_run_with_the_way_out(tmp_path):
    with (
        pytest.warns(UserWarning, match="not finite"),
        pytest.raises(StepFailed, match=r"3 such steps in a row: lower module\.optimizer\.lr"),
    ):
        trained(tmp_path, [1.0] + [float("nan")] * 3)


def test_a_finite_step_between_starts_the_count_anew(tmp_path):
    nan = float("nan")
    with pytest.warns(UserWarning, match="not finite"):
        _, callback, _ = trained(tmp_path, [nan, nan, 1.0, nan, nan])
    assert callback.skipped == 4


def test_the_norm_before_clipping_is_logged_and_the_count_survives_a_checkpoint(tmp_path):
    _, callback, trainer = trained(tmp_path, [7.0])
    assert float(trainer.callback_metrics["train/gradient_norm"]) == pytest.approx(7 * 2**0.5)
    callback.skipped, callback.in_a_row = 5, 1
    other = SkipNonfinite(most_in_a_row=2)
    other.load_state_dict(callback.state_dict())
    assert (other.skipped, other.in_a_row) == (5, 1)
