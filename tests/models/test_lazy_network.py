import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from lipsync_lightning.models.lazy_network import LazyNetwork, judging, version_by_content


class Doubler(LazyNetwork[nn.Linear]):
    num_loads = 0

    def load(self) -> nn.Linear:
        type(self).num_loads += 1
        return nn.Linear(1000, 1000)


def test_a_network_is_loaded_once_when_it_is_needed_and_never_sent_to_another_process():
    Doubler.num_loads = 0
    judge = Doubler(device="cpu")
    assert Doubler.num_loads == 0
    assert judge.network is judge.network
    assert Doubler.num_loads == 1
    assert vars(pickle.loads(pickle.dumps(judge))) == {"wanted_device": "cpu"}


def test_the_device_is_chosen_by_the_process_that_judges(monkeypatch: pytest.MonkeyPatch):
    judge = Doubler(device="auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert judge.device == "cuda"
    sent = pickle.dumps(judge)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pickle.loads(sent).device == "cpu"
    assert next(pickle.loads(sent).network.parameters()).device.type == "cpu"


def test_other_weights_under_the_same_name_are_another_version_and_a_copy_elsewhere_is_not(tmp_path: Path):
    weights, copy = tmp_path / "a.pt", tmp_path / "b.pt"
    weights.write_bytes(b"one")
    copy.write_bytes(b"one")
    before = version_by_content("judge", str(weights))
    assert version_by_content("judge", str(copy)) == before == "judge:7692c3ad3540bb80"
    weights.write_bytes(b"two")
    os.utime(weights, ns=(0, 0))
    assert version_by_content("judge", str(weights)) != before
    assert version_by_content("judge", str(tmp_path)) == "judge:missing"


def test_judging_computes_without_gradients_and_leaves_settings_as_they_were():
    before = torch.backends.cudnn.deterministic
    with judging():
        assert not (nn.Linear(2, 2)(torch.ones(1, 2))).requires_grad
        assert torch.backends.cudnn.deterministic
    assert torch.backends.cudnn.deterministic == before
