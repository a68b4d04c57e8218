import pytest
import torch
from torch import Tensor

from lipsync_lightning.errors import WrongWeights
from lipsync_lightning.models.matching import load_matching, plain_weights, require_match
from lipsync_lightning.models.unet import LipSyncUNet

WEIGHTS = {"conv.weight": torch.ones(2, 3), "steps": torch.tensor(7)}


@pytest.fixture
def unet(make_unet) -> LipSyncUNet:
    return make_unet("up")


def without_motion(unet: LipSyncUNet) -> dict[str, Tensor]:
    return {name: tensor + 1 for name, tensor in unet.state_dict().items() if "motion_modules." not in name}


def test_load_matching_copies_the_weights_and_names_those_it_keeps(unet):
    weights = without_motion(unet)
    kept = load_matching(unet, weights)
    assert kept
    assert all("motion_modules." in name for name in kept)
    assert all(torch.equal(tensor, unet.state_dict()[name]) for name, tensor in weights.items())
    assert unet.conv_in.weight.data_ptr() != weights["conv_in.weight"].data_ptr()


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [("conv_out.bias", None, "1 missing: conv_out.bias"), ("extra", torch.zeros(1), "1 unexpected: extra")],
)
def test_load_matching_refuses_what_it_was_not_told_to_allow_and_loads_nothing(unet, name, tensor, message):
    weights = without_motion(unet)
    weights = (
        {**weights, name: tensor}
        if tensor is not None
        else {key: value for key, value in weights.items() if key != name}
    )
    before = unet.conv_in.weight.clone()
    with pytest.raises(WrongWeights, match=message):
        load_matching(unet, weights)
    assert torch.equal(unet.conv_in.weight, before)


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."]
)
def test_a_wrappers_prefix_before_every_name_is_left_out(prefix):
    plain = plain_weights({prefix + name: tensor for name, tensor in WEIGHTS.items()})
    assert set(plain) == set(WEIGHTS)


def test_a_prefix_before_some_names_only_is_refused_with_the_cause():
    with pytest.raises(
        WrongWeights, match=r"1 of 2 names start with 'module\.' and the others do not, as if two checkpoints"
    ):
        plain_weights({"module.a": torch.zeros(1), "b": torch.zeros(1)})


@pytest.mark.parametrize(
    ("given", "becomes"),
    [("float16", "float32"), ("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")],
)
def test_half_precision_becomes_single_without_a_change_of_value_and_double_stays(given, becomes):
    tensor = torch.tensor([0.1, -3.0, 60000.0]).to(getattr(torch, given))
    plain = plain_weights({"a": tensor, "steps": torch.tensor(7)})
    assert plain["a"].dtype == getattr(torch, becomes)
    assert torch.equal(plain["a"].double(), tensor.double())
    assert plain["steps"].dtype == torch.int64


@pytest.mark.parametrize(
    ("state_dict", "message"),
    [
        ({"a": torch.zeros(1), "epoch": 3}, "epoch is a int"),
        ({"a": torch.tensor([1.0, torch.nan])}, "a has values that are not finite"),
        ({"a": torch.tensor([1e5]).half()}, "a has values that are not finite"),
        ({"a": torch.zeros(2).to(torch.float8_e4m3fn)}, r"a is torch\.float8_e4m3fn, which keeps too little"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, r"a is torch\.complex64"),
        ({"a": torch.zeros(2, dtype=torch.int8)}, r"a is torch\.int8"),
        ({"a": torch.eye(3).to_sparse()}, r"a is stored as torch\.sparse_coo"),
        ({"a": torch.zeros(1), "b": torch.zeros(1).double()}, "b are float64 and others are not"),
        ({1: torch.zeros(1)}, "a mapping of names to tensors"),
        (None, "a mapping of names to tensors, not NoneType"),
    ],
)
def test_what_are_no_usable_weights_is_refused_by_name(state_dict, message):
    with pytest.raises(WrongWeights, match=message):
        plain_weights(state_dict)


def test_whole_numbers_in_place_of_weights_are_refused():
    with pytest.raises(WrongWeights, match=r"a \(2,\) of whole numbers instead of \(2,\)"):
        require_match({"a": torch.zeros(2)}, {"a": torch.zeros(2, dtype=torch.int64)}, "a network")
