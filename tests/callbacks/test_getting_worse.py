import warnings
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from lipsync_lightning.callbacks.getting_worse import GettingWorse
from lipsync_lightning.errors import BadConfig


def validated(callback: GettingWorse, name: str, *values: float) -> tuple[list[str], Any]:
    """What is said over validations with these values, and the trainer afterwards."""
    trainer = SimpleNamespace(sanity_checking=False, should_stop=False, global_step=0, callback_metrics={})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for value in values:
            trainer.global_step += 10
            trainer.callback_metrics = {name: torch.tensor(value)}
            callback.on_validation_end(cast(Any, trainer), cast(Any, None))
    return [str(each.message) for each in caught], trainer


def test_what_gets_no_better_for_so_many_validations_is_said_once():
    callback = GettingWorse(watched={"val/auc": "max"}, patience=2, stops=False)
    said, trainer = validated(callback, "val/auc", 0.6, 0.7, 0.65, 0.7, 0.6, 0.5)
    assert said == ["step 40: val/auc is 0.7 and has not been better than 0.7, of step 20, for 2 validations"]
    assert not trainer.should_stop


def test_a_run_may_end_so_and_lower_is_better_where_it_is_said():
    callback = GettingWorse(watched={"val/loss": "min"}, patience=1, stops=True)
    said, trainer = validated(callback, "val/loss", 3.0, 2.0, 2.5)
    assert said[0].endswith("; the run ends")
    assert trainer.should_stop


def test_what_is_no_number_or_not_watched_counts_for_nothing():
    callback = GettingWorse(watched={"val/auc": "max"}, patience=1, stops=True)
    for name, values in (("val/auc", (float("nan"), 0.5, float("nan"), 0.6)), ("val/loss", (1.0, 2.0, 3.0))):
        said, trainer = validated(callback, name, *values)
        assert (said, trainer.should_stop) == ([], False)


def test_a_resumed_run_goes_on_waiting():
    first, second = (GettingWorse(watched={"val/auc": "max"}, patience=2, stops=False) for _ in range(2))
    assert validated(first, "val/auc", 0.7, 0.6)[0] == []
    second.load_state_dict(first.state_dict())
    assert len(validated(second, "val/auc", 0.6)[0]) == 1


def test_another_word_than_min_or_max_is_refused():
    with pytest.raises(BadConfig, match="give min or max"):
        GettingWorse(watched={"val/auc": "higher"}, patience=1, stops=False)
