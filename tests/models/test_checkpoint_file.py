import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lipsync_lightning.errors import MissingWeights, WrongWeights
from lipsync_lightning.models.checkpoint_file import read_file, require_undamaged, weights_of

WEIGHTS = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.zeros(2)}


class RunsCode:
    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self):
        return Path.touch, (self.touched,)


def truncated(path: Path, whole: Path) -> None:
    path.write_bytes(whole.read_bytes()[:-300])


@pytest.mark.parametrize("new_format", [True, False])
def test_what_torch_saved_in_either_of_its_formats_is_read(tmp_path, new_format):
    torch.save(WEIGHTS, tmp_path / "a.pt", _use_new_zipfile_serialization=new_format)
    assert all(torch.equal(tensor, WEIGHTS[name]) for name, tensor in read_file(tmp_path / "a.pt").items())


def test_safetensors_are_read(tmp_path):
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    assert set(read_file(tmp_path / "a.safetensors")) == set(WEIGHTS)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"hello, this is a note\n", "it is a text file"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "it is a web page"),
        (b"<html><body>404</body></html>", "it is a web page"),
        (b"<?xml version='1.0'?><Error>NoSuchBucket</Error>", "it is an XML answer"),
        (b'{"error":"Repository not found"}', "error answer of a server"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0a47\nsize 5072222488\n", "Git LFS pointer"),
        ("\ufeff<!DOCTYPE html>".encode(), "it is a web page"),
        (b"<!-- saved from a browser -->\n<html>", "it is a web page"),
        ("Gewichte für alle, ein Text".encode(), "it is a text file"),
        (b"\x80\x02abc", "get it again"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "no file that torch or safetensors wrote"),
        (bytes(range(256)), "no file that torch or safetensors wrote"),
    ],
)
def test_a_file_that_is_something_else_is_refused_by_what_it_is(tmp_path, content, reason):
    (tmp_path / "unet.pt").write_bytes(content)
    with pytest.raises(WrongWeights, match=rf"unet\.pt is not a readable checkpoint: .*{reason}"):
        read_file(tmp_path / "unet.pt")


@pytest.mark.parametrize("new_format", [True, False])
def test_a_truncated_file_is_refused(tmp_path, new_format):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "whole.pt", _use_new_zipfile_serialization=new_format)
    truncated(tmp_path / "cut.pt", tmp_path / "whole.pt")
    with pytest.raises(WrongWeights, match=r"its end is missing after|unexpected EOF"):
        read_file(tmp_path / "cut.pt")


def test_truncated_safetensors_are_refused(tmp_path):
    save_file({"a": torch.zeros(1000)}, tmp_path / "whole.safetensors")
    truncated(tmp_path / "cut.safetensors", tmp_path / "whole.safetensors")
    with pytest.raises(WrongWeights, match="not a readable safetensors file"):
        read_file(tmp_path / "cut.safetensors")


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_file_that_would_run_code_is_refused_with_the_reason_and_runs_none(tmp_path, save):
    save({"state_dict": RunsCode(tmp_path / "touched")}, tmp_path / "evil.pt")
    with pytest.raises(WrongWeights, match=r"needs more than plain tensors .* so it is refused"):
        read_file(tmp_path / "evil.pt")
    assert not (tmp_path / "touched").exists()


def test_safetensors_under_another_name_are_read(tmp_path):
    save_file(WEIGHTS, tmp_path / "a.pt")
    assert set(read_file(tmp_path / "a.pt")) == set(WEIGHTS)


def test_torchscript_is_refused_without_torchs_advice_to_trust_it(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "a.pt")
    with pytest.raises(WrongWeights) as caught:
        read_file(tmp_path / "a.pt")
    assert "weights_only" not in str(caught.value)


def test_a_byte_that_changed_since_it_was_written_is_found(tmp_path):
    torch.save({"a": torch.zeros(5000)}, tmp_path / "a.pt")
    require_undamaged(tmp_path / "a.pt")
    content = bytearray((tmp_path / "a.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "a.pt").write_bytes(content)
    assert read_file(tmp_path / "a.pt")["a"].any()
    with pytest.raises(WrongWeights, match=r"a\.pt is damaged at a/data/0"):
        require_undamaged(tmp_path / "a.pt")


def test_two_sets_of_weights_in_one_file_are_refused():
    with pytest.raises(WrongWeights, match=r"several sets of weights, \['state_dict', 'model'\]"):
        weights_of({"state_dict": WEIGHTS, "model": WEIGHTS}, "a.pt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingWeights, match=r"nowhere\.pt"):
        read_file(tmp_path / "nowhere.pt")


def test_a_lone_tensor_is_no_checkpoint(tmp_path):
    torch.save(torch.zeros(2), tmp_path / "a.pt")
    with pytest.raises(WrongWeights, match="holds a Tensor"):
        read_file(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"state_dict": WEIGHTS, "global_step": 3},
        {"module": WEIGHTS},
        {"model": WEIGHTS, "epoch": 1},
        {**WEIGHTS, "global_step": 3},
    ],
)
def test_weights_are_found_bare_and_in_the_usual_wrappings(content):
    assert weights_of(content, "a.pt") == WEIGHTS


def test_a_checkpoint_of_a_training_run_is_sent_to_export():
    with pytest.raises(WrongWeights, match=r"checkpoint of a training run.*lipsync_lightning\.export"):
        weights_of({"pytorch-lightning_version": "2.6", "state_dict": WEIGHTS}, "a.ckpt")


def test_a_file_without_tensors_holds_no_weights():
    with pytest.raises(WrongWeights, match=r"a\.pt holds no weights: \['epoch'\]"):
        weights_of({"epoch": 3}, "a.pt")
