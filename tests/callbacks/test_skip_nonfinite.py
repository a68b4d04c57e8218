from math import inf, nan

import pytest
import torch
from lightning import Trainer

from lipsync_lightning.callbacks.skip_nonfinite import SkipNonfinite
from lipsync_lightning.errors import StepFailed
from small_training import Line, factors, fit


def trained(*values: float, fused: bool = True, every: int = 1) -> tuple[Line, SkipNonfinite, Trainer]:
    torch.manual_seed(0)
    module, callback = Line(fused=fused), SkipNonfinite(most_in_a_row=2)
    return module, callback, fit(module, factors(*values), callback, gradient_clip_val=1.0, log_every_n_steps=every)


@pytest.mark.parametrize("bad", [nan, inf])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("every", [1, 3])
def test_a_step_that_is_not_finite_changes_nothing_and_is_named_and_counted(bad, fused, every):
    with pytest.warns(UserWarning, match=r"step 1: the gradient is not finite, the step is skipped \(clips clip 1 on"):
        module, callback, trainer = trained(1.0, bad, 1.0, fused=fused, every=every)
    assert module.seen[0] != module.seen[1] == module.seen[2]
    assert callback.skipped == float(trainer.callback_metrics["train/skipped_steps"]) == 1


@pytest.mark.parametrize("fused", [True, False])
def test_the_optimizer_goes_on_as_if_the_step_had_not_been(fused):
    with pytest.warns(UserWarning, match="not finite"):
        with_bad, _, _ = trained(1.0, nan, 2.0, 1.0, fused=fused)
    without, _, _ = trained(1.0, 2.0, 1.0, fused=fused)
    assert torch.equal(with_bad.layer.weight, without.layer.weight)


def test_too_many_such_steps_in_a_row_end_the_run_with_the_way_out():
    with pytest.warns(UserWarning, match="not finite"):
        assert trained(nan, nan, 1.0, nan, nan)[1].skipped == 4
    way_out = r"step 3: 3 steps in a row .*: lower module\.optimizer\.lr"
    with pytest.warns(UserWarning, match="not finite"), pytest.raises(StepFailed, match=way_out):
        trained(1.0, nan, nan, nan)


def test_a_run_that_ends_with_such_steps_is_not_told_as_trained():
    with pytest.warns(UserWarning, match=r"the last 2 steps had gradients that are not finite; .* no use"):
        trained(1.0, nan, nan)


def test_steps_that_were_not_looked_back_at_are_counted_at_the_end_and_in_a_checkpoint():
    with pytest.warns(UserWarning, match="step 1"):
        assert trained(1.0, nan, every=10)[1].skipped == 1
    callback = trained(1.0, every=10)[1]
    callback.steps = [("step 1: not finite", torch.ones(()))]
    with pytest.warns(UserWarning, match="step 1"):
        assert callback.state_dict() == {"skipped": 1, "in_a_row": 1}


def test_the_norm_before_clipping_is_logged_and_the_count_survives_a_checkpoint():
    _, callback, trainer = trained(7.0)
    assert float(trainer.callback_metrics["train/gradient_norm"]) == pytest.approx(7 * 2**0.5)
    callback.skipped, callback.in_a_row = 5, 1
    other = SkipNonfinite(most_in_a_row=2)
    other.load_state_dict(callback.state_dict())
    assert (other.skipped, other.in_a_row) == (5, 1)
