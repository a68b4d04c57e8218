from functools import partialmethod

import pytest
import torch
from torch import nn

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.models import compiling


def test_compiled_blocks_give_the_same_output_and_gradients_under_the_same_names(make_unet, monkeypatch):
    monkeypatch.setattr(compiling.torch, "compile", lambda function, **_: function)
    # What torch's compiler traces, without a minute of C++.
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    unet, given = make_unet("none"), (torch.randn(1, 13, 4, 8, 8), torch.tensor([7]), torch.randn(1, 4, 3, 8))
    nn.init.normal_(unet.conv_out.weight)
    names, results = list(unet.state_dict()), []
    for _ in range(2):
        output = unet(*given)
        output.square().mean().backward()
        results.append((output.detach(), {name: own.grad.clone() for name, own in unet.named_parameters()}))
        unet.zero_grad()
        compiling.compile_blocks(unet, device="cpu")
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)
    assert list(unet.state_dict()) == names
    assert sum(block._compiled_call_impl is not None for block in unet.modules()) == 12  # resnets and attention


def test_without_a_compiler_it_is_refused_in_one_sentence(monkeypatch):
    def without_compiler(*_: object, **__: object) -> None:
        raise RuntimeError("No working C++ compiler found\nand forty lines more")

    monkeypatch.setattr(compiling.torch, "compile", without_compiler)
    with pytest.raises(BadConfig, match=r"^compile=true needs a compiler for cpu: No working .* found .*; compile"):
        compiling.compile_blocks(nn.Identity(), device="cpu")
