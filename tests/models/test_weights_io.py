import pickle
import re
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from lipsync_lightning.errors import MissingWeights, WrongWeights
from lipsync_lightning.models import released
from lipsync_lightning.models.autoencoder import LinearAutoencoder
from lipsync_lightning.models.syncnet import StableSyncNet
from lipsync_lightning.models.unet import LipSyncUNet
from lipsync_lightning.models.weights_io import (
    fingerprint_with_settings,
    load_matching,
    plain_weights,
    pretrained,
    read_file,
    weights_of,
)

WEIGHTS = {"conv.weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(7)}


class RunsCode:
    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self):
        return Path.touch, (self.touched,)


def save_old(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [torch.save, save_old, save_file])
def test_every_usual_format_is_read_and_a_cut_file_refused(tmp_path, save):
    save(WEIGHTS, tmp_path / "a.pt")
    assert all(torch.equal(tensor, WEIGHTS[name]) for name, tensor in read_file(tmp_path / "a.pt").items())
    (tmp_path / "a.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:-20])
    with pytest.raises(WrongWeights, match=r"a\.pt is"):
        read_file(tmp_path / "a.pt")


@pytest.mark.parametrize("content", [b"", b"hello\n", b"<html>", b'{"error": 1}', b"\x80\x02abc", b"\x89PNG"])
def test_a_file_that_is_something_else_is_refused_with_its_beginning(tmp_path, content):
    (tmp_path / "unet.pt").write_bytes(content)
    with pytest.raises(WrongWeights, match=r"unet\.pt is .*(begins?) with b.*get it again"):
        read_file(tmp_path / "unet.pt")


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path, save):
    save({"state_dict": RunsCode(tmp_path / "touched")}, tmp_path / "evil.pt")
    with pytest.raises(WrongWeights, match="could run code"):
        read_file(tmp_path / "evil.pt")
    assert not (tmp_path / "touched").exists()


def test_what_holds_no_names_is_refused(tmp_path):
    torch.save(torch.zeros(2), tmp_path / "a.pt")
    with pytest.raises(WrongWeights, match="holds a Tensor and no names"):
        read_file(tmp_path / "a.pt")
    torch.save({"state_dict": {}}, tmp_path / "tiny.pt")
    with pytest.raises(WrongWeights, match="expected 'dims' and 'model_state_dict'"):
        released.whisper(path=str(tmp_path / "tiny.pt"))


@pytest.mark.parametrize(
    "content",
    [WEIGHTS, {"state_dict": WEIGHTS, "step": 3}, {"module": WEIGHTS}, {"model": WEIGHTS}, {**WEIGHTS, "step": 3}],
)
def test_weights_are_found_bare_and_in_the_usual_wrappings(content):
    assert weights_of(content, "a.pt") == WEIGHTS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": WEIGHTS, "model": WEIGHTS}, "several sets of weights"),
        ({"pytorch-lightning_version": "2.6", "state_dict": WEIGHTS}, r"a training run.*export run="),
        ({"epoch": 3}, r"a\.pt holds no weights, only \['epoch'\]"),
    ],
)
def test_what_holds_no_set_of_weights_or_several_is_refused(content, message):
    with pytest.raises(WrongWeights, match=message):
        weights_of(content, "a.pt")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_a_wrappers_prefix_before_every_name_is_left_out(prefix):
    wrapped = {prefix + name: tensor for name, tensor in WEIGHTS.items()}
    assert set(plain_weights(wrapped)) == set(WEIGHTS)
    assert set(plain_weights({**wrapped, "bare": torch.zeros(1)})) == {*wrapped, "bare"}


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
        ({"a": torch.zeros(2).to(torch.float8_e4m3fn)}, r"a is a torch\.float8_e4m3fn"),
    ],
)
def test_what_are_no_usable_weights_is_refused_by_name(state_dict, message):
    with pytest.raises(WrongWeights, match=message):
        plain_weights(state_dict)


def without_motion(unet: LipSyncUNet) -> dict[str, Tensor]:
    return {name: tensor + 1 for name, tensor in unet.state_dict().items() if "motion_modules." not in name}


def test_load_matching_copies_the_weights_and_names_those_it_keeps(make_unet):
    unet = make_unet("up")
    weights = without_motion(unet)
    kept = load_matching(unet, weights)
    assert set(kept) == set(unet.state_dict()) - set(weights)
    assert all(torch.equal(tensor, unet.state_dict()[name]) for name, tensor in weights.items())
    assert unet.conv_in.weight.data_ptr() != weights["conv_in.weight"].data_ptr()


@pytest.mark.parametrize(
    "change", [{"conv_out.bias": None}, {"extra": torch.zeros(1)}, {"conv_out.bias": torch.zeros(9)}]
)
def test_load_matching_refuses_what_it_was_not_told_to_allow_and_loads_nothing(make_unet, change):
    unet = make_unet("up")
    before = unet.conv_in.weight.clone()
    weights = {name: tensor for name, tensor in {**without_motion(unet), **change}.items() if tensor is not None}
    with pytest.raises(WrongWeights, match=rf"1 (missing|unexpected|misshapen): {next(iter(change))}"):
        load_matching(unet, weights)
    assert torch.equal(unet.conv_in.weight, before)


def test_a_saved_network_comes_back_frozen_with_its_weights(tmp_path, tiny_syncnet):
    tiny_syncnet.save_pretrained(tmp_path)
    loaded = pretrained(network=StableSyncNet, path=str(tmp_path), get_with="train it")
    assert not any(part.training for part in loaded.modules())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in tiny_syncnet.state_dict().items())


def test_missing_weights_are_refused_with_the_command_that_gets_them(tmp_path):
    with pytest.raises(MissingWeights, match=r"no StableSyncNet at .*get it with: python -m train it"):
        pretrained(network=StableSyncNet, path=str(tmp_path), get_with="python -m train it")
    for load in (released.whisper, released.unet, released.stable_diffusion_autoencoder):
        with pytest.raises(MissingWeights, match=r"python -m lipsync_lightning\.export fetch=latentsync-1\.6$"):
            load(path=str(tmp_path / "nothing"))
    with pytest.raises(MissingWeights, match=r"fetch=latentsync-1\.6 needs=training$"):
        released.videomae(path=str(tmp_path / "nothing"))


def test_a_folder_that_holds_less_or_something_else_is_refused(tmp_path, tiny_autoencoder):
    tiny_autoencoder.save_pretrained(tmp_path)
    with pytest.raises(WrongWeights, match="does not hold a StableSyncNet"):
        pretrained(network=StableSyncNet, path=str(tmp_path), get_with="train it")
    (file,) = tmp_path.glob("*.safetensors")
    whole = file.read_bytes()
    weights = load_file(file)
    del weights["basis"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(WrongWeights, match=r"missing or unknown \['basis'\]"):
        pretrained(network=LinearAutoencoder, path=str(tmp_path), get_with="train it")
    file.write_bytes(whole[:100])
    with pytest.raises(WrongWeights, match="does not hold a LinearAutoencoder"):
        pretrained(network=LinearAutoencoder, path=str(tmp_path), get_with="train it")


def test_attention_weights_under_their_old_names_are_accepted(tmp_path):
    """`stabilityai/sd-vae-ft-mse` still has them."""
    AutoencoderKL(block_out_channels=(32,)).save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    expected = load_file(file)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {re.sub("to_[qkv]|to_out.0", lambda new: old[new[0]], name): expected[name] for name in expected}
    assert set(renamed) != set(expected)
    save_file(renamed, file, metadata={"format": "pt"})
    loaded = pretrained(network=AutoencoderKL, path=str(tmp_path), get_with="download it").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


def test_a_fingerprint_tells_weights_and_settings_apart_and_survives_saving(tmp_path, tiny_autoencoder):
    before = fingerprint_with_settings(tiny_autoencoder)
    tiny_autoencoder.save_pretrained(tmp_path)
    assert fingerprint_with_settings(LinearAutoencoder.from_pretrained(tmp_path)) == before
    tiny_autoencoder.mean += 1
    assert fingerprint_with_settings(tiny_autoencoder) != before
