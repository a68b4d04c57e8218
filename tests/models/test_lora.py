"""LoRA: what learns, what it adds, and that nothing of it is needed afterwards."""

import pytest
import torch

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.models.lora import add_lora, plain_network
from lipsync_lightning.models.unet import LipSyncUNet

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
INPUTS = {"sample": (1, 13, 4, 8, 8), "audio": (1, 4, 3, 8)}


def inputs() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {"timestep": torch.tensor([7]), **{name: torch.randn(shape) for name, shape in INPUTS.items()}}


@pytest.fixture
def unet(make_unet) -> LipSyncUNet:
    unet = make_unet("all")
    for name, parameter in unet.named_parameters():
        if "proj_out" in name or "conv_out" in name:
            torch.nn.init.normal_(parameter, std=0.1)  # they start at zero, which would hide everything
    return unet.requires_grad_(False)


def test_it_adds_nothing_at_first_and_what_it_has_learned_is_in_the_plain_network_that_is_saved(unet, tmp_path):
    before = unet(**inputs())
    add_lora(unet, rank=3, alpha=6, targets=TARGETS, inside=["motion_modules.", "attentions."])
    assert torch.equal(unet(**inputs()), before)
    for name, parameter in unet.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    learned = unet(**inputs())
    assert (learned - before).abs().mean() > 0.01
    plain_network(unet).save_pretrained(tmp_path)
    loaded = LipSyncUNet.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    torch.testing.assert_close(loaded(**inputs()), learned, rtol=1e-4, atol=1e-5)
    assert plain_network(loaded) is loaded


@pytest.mark.parametrize(
    ("targets", "inside", "reason"),
    [
        (
            ["to_q", "to_x"],
            ["attn2."],
            r"inside module.trainable=\['attn2.'\] is a 'to_x'; there are .*'to_out.0'.*'to_v'",
        ),
        (["q"], [""], "is a 'q'; there are .*'proj'.*'to_q'"),
        (["conv1"], [""], "is a 'conv1'"),
        (["to_q"], ["resnets."], r"is a 'to_q'; there are \['time_emb_proj'\]"),
    ],
)
def test_a_layer_that_is_not_there_is_refused_and_named_what_is(unet, targets, inside, reason):
    with pytest.raises(BadConfig, match=reason):
        add_lora(unet, rank=2, alpha=2, targets=targets, inside=inside)
    for rank, names in ((-2, ["to_q"]), ("x", ["to_q"]), (2, "to_q")):
        with pytest.raises(BadConfig, match=r"module\.lora\.rank=.*a whole number, 1 or more, and a list"):
            add_lora(unet, rank=rank, alpha=2, targets=names, inside=[""])  # pyright: ignore[reportArgumentType]
