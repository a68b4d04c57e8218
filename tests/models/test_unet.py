import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.models.reference_names import unet_arguments_from_reference
from lipsync_lightning.models.released import unet_config
from lipsync_lightning.models.unet import LipSyncUNet, clip_group_norm

TINY = {
    **{"in_channels": 5, "out_channels": 2, "block_out_channels": [32, 32], "attention": [False, True]},
    **{"layers_per_block": 1, "num_attention_heads": 2, "cross_attention_dim": 12, "norm_num_groups": 8},
    **{"motion": "all", "motion_num_attention_heads": 2, "motion_max_seq_length": 6},
}


def tiny_unet(**changes: object) -> LipSyncUNet:
    torch.manual_seed(0)
    return LipSyncUNet(**{**TINY, **changes})


def random_unet(**changes: object) -> LipSyncUNet:
    """Nothing at zero, so that every part shows in the output."""
    unet = tiny_unet(**changes).eval()
    for parameter in unet.parameters():
        nn.init.normal_(parameter, std=0.1)
    return unet


def clip_inputs(
    num_clips: int = 2, num_frames: int = 3, size: tuple[int, int] = (8, 8)
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(num_clips, 5, num_frames, *size, generator=generator)
    timestep = torch.arange(num_clips) * 400 + 3
    return sample, timestep, torch.randn(num_clips, num_frames, 4, 12, generator=generator)


def test_latent_sizes_that_do_not_halve_evenly_are_kept():
    assert random_unet()(*clip_inputs(size=(7, 9))).shape == (2, 2, 3, 7, 9)


def test_clips_of_a_batch_do_not_see_each_other():
    unet, (sample, timestep, audio) = random_unet(), clip_inputs()
    together = unet(sample, timestep, audio)
    torch.testing.assert_close(together[1:], unet(sample[1:], timestep[1:], audio[1:]), rtol=1e-5, atol=1e-6)


def test_more_positions_than_attention_takes_at_once_are_attended_to_in_pieces(monkeypatch):
    unet, given = random_unet(motion="all"), clip_inputs()
    expected = unet(*given)
    monkeypatch.setattr("lipsync_lightning.models.unet._MOST_SEQUENCES", 7)
    torch.testing.assert_close(unet(*given), expected, rtol=1e-5, atol=1e-6)


def test_frames_of_a_clip_share_their_norms_without_temporal_modules():
    unet, (sample, timestep, audio) = random_unet(motion="none"), clip_inputs()
    changed = sample.clone()
    changed[:, :, 2] *= 3
    expected, actual = (unet(given, timestep, audio)[:, :, 0] for given in (sample, changed))
    assert not torch.allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize("motion", ["none", "all"])
def test_the_order_of_frames_matters_to_temporal_modules_only(motion):
    unet, (sample, timestep, audio) = random_unet(motion=motion), clip_inputs()
    reversed_output = unet(sample.flip(2), timestep, audio.flip(1)).flip(2)
    assert torch.allclose(reversed_output, unet(sample, timestep, audio), rtol=1e-5, atol=1e-5) == (motion == "none")


def test_clip_group_norm_is_group_norm_over_all_frames_of_a_clip():
    norm = nn.GroupNorm(4, 8)
    frames = torch.randn(2, 3, 8, 5, 5)
    expected = norm(frames.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(clip_group_norm(norm, frames.flatten(0, 1), num_clips=2).unflatten(0, (2, 3)), expected)


def test_more_frames_than_positions_are_refused_with_both_numbers():
    with pytest.raises(BadConfig, match=r"7 frames.* for 6"):
        tiny_unet()(*clip_inputs(num_frames=7))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"motion": "down"}, "'down'"),
        ({"norm_num_groups": 7}, "norm_num_groups = 7"),
        ({"num_attention_heads": 5}, "num_attention_heads = 5"),
        ({"block_out_channels": (32, 48)}, r"motion_norm_num_groups = 32 does not divide the widths \[48\]"),
    ],
)
def test_numbers_that_do_not_fit_together_are_refused(changes, message):
    with pytest.raises(BadConfig, match=message):
        tiny_unet(**changes)


def test_a_saved_network_comes_back_with_the_same_arguments_and_output(tmp_path):
    unet = random_unet(motion="up")
    unet.save_pretrained(tmp_path)
    loaded = LipSyncUNet.from_pretrained(tmp_path)
    assert {name: loaded.config[name] for name in TINY} == {**TINY, "motion": "up"}
    assert torch.equal(loaded(*clip_inputs()), unet(*clip_inputs()))


def test_gradient_checkpointing_changes_neither_output_nor_gradients():
    unet = random_unet().train()
    expected = unet(*clip_inputs())
    expected.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in unet.named_parameters()}
    unet.zero_grad()
    unet.enable_gradient_checkpointing()
    output = unet(*clip_inputs())
    output.square().sum().backward()
    assert torch.equal(output, expected)
    for name, parameter in unet.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-5, atol=1e-6, msg=name)


def test_backward_of_full_size_stage_two_keeps_at_most_one_and_a_half_gibibytes():
    with torch.device("meta"):  # the same tensors are kept as on a device, in a second instead of minutes
        unet = LipSyncUNet(**unet_arguments_from_reference(unet_config("all"))).train()
        clip = torch.randn(1, 13, 16, 32, 32), torch.tensor([500]), torch.randn(1, 16, 50, 384)

    def kept_gibibytes() -> float:
        weights = {parameter.untyped_storage()._cdata for parameter in unet.parameters()}
        kept: dict[int, Tensor] = {}

        def remember(tensor: Tensor) -> Tensor:
            kept.setdefault(tensor.untyped_storage()._cdata, tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
            unet(*clip)
        sizes = (tensor.untyped_storage().nbytes() for storage, tensor in kept.items() if storage not in weights)
        return sum(sizes) / 2**30

    assert kept_gibibytes() > 5
    unet.enable_gradient_checkpointing()
    assert kept_gibibytes() < 1.5


@pytest.mark.slow
def test_the_network_compiles_as_one_graph():
    unet = random_unet(motion="up").train()
    unet.enable_gradient_checkpointing()
    compiled = torch.compile(unet, fullgraph=True, backend="aot_eager")
    sample, timestep, audio = clip_inputs()
    output, expected = (network(sample.requires_grad_(), timestep, audio) for network in (compiled, unet))
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)
    gradients = [torch.autograd.grad(result.sum(), [sample, *unet.parameters()]) for result in (output, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


class SinglePrecision(TorchDispatchMode):
    """Counts results in float32."""

    num_results = 0

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        result = operation(*arguments, **(keywords or {}))
        self.num_results += isinstance(result, Tensor) and result.dtype == torch.float32
        return result


@pytest.mark.parametrize("motion", ["none", "all", "up"])
def test_in_double_precision_only_the_sinusoids_of_the_timestep_are_single(motion):
    unet = random_unet(motion=motion).double()
    sample, timestep, audio = clip_inputs()
    with SinglePrecision() as sinusoids:
        unet.time_proj(timestep)
    with SinglePrecision() as all_of_it:
        output = unet(sample.double(), timestep, audio.double())
    assert output.dtype == torch.float64
    assert all_of_it.num_results == sinusoids.num_results > 0
