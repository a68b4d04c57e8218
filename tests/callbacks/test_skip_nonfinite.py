from math import inf, nan
from typing import Any

import pytest
import torch
from lightning import Trainer

from lipsync_lightning.callbacks.skip_nonfinite import SkipNonfinite
from lipsync_lightning.errors import StepFailed
from small_training import Line, factors, fit


def trained(*values: float, **changes: Any) -> tuple[Line, SkipNonfinite, Trainer]:
    torch.manual_seed(0)
    module, callback = Line(), SkipNonfinite(most_in_a_row=2)
    return module, callback, fit(module, factors(*values), callback, gradient_clip_val=1.0, **changes)


@pytest.mark.parametrize("bad", [nan, inf])
def test_a_step_that_is_not_finite_changes_nothing_and_is_named_and_counted(bad):
    with pytest.warns(UserWarning, match=r"step 1: the gradient is not finite, the step is skipped \(clips clip 1 on"):
        module, callback, trainer = trained(1.0, bad, 1.0)
    assert module.seen[0] != module.seen[1] == module.seen[2]
    assert callback.skipped == float(trainer.callback_metrics["train/skipped_steps"]) == 1


def test_the_optimizer_goes_on_as_if_the_step_had_not_been():
    with pytest.warns(UserWarning, match="not finite"):
        with_bad, _, _ = trained(1.0, nan, 2.0, 1.0)
    without, _, _ = trained(1.0, 2.0, 1.0)
    assert torch.equal(with_bad.layer.weight, without.layer.weight)


def test_too_many_such_steps_in_a_row_end_the_run_with_the_way_out():
    with pytest.warns(UserWarning, match="not finite"):
        assert trained(nan, nan, 1.0, nan, nan)[1].skipped == 4
    way_out = r"3 such steps in a row: lower module\.optimizer\.lr"
    with pytest.warns(UserWarning, match="not finite"), pytest.raises(StepFailed, match=way_out):
        trained(1.0, nan, nan, nan)


def test_the_norm_before_clipping_is_logged_and_the_count_survives_a_checkpoint():
    _, callback, trainer = trained(7.0)
    assert float(trainer.callback_metrics["train/gradient_norm"]) == pytest.approx(7 * 2**0.5)
    callback.skipped, callback.in_a_row = 5, 1
    other = SkipNonfinite(most_in_a_row=2)
    other.load_state_dict(callback.state_dict())
    assert (other.skipped, other.in_a_row) == (5, 1)
