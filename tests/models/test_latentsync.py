from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor, nn

from lipsync_lightning.errors import BadConfig, WrongWeights
from lipsync_lightning.files import CONF_DIR
from lipsync_lightning.models.audio_encoder import WhisperAudioEncoder
from lipsync_lightning.models.hyperiqa import HyperIQA
from lipsync_lightning.models.judge_syncnet import JudgeSyncNet
from lipsync_lightning.models.latentsync import (
    hyperiqa_from_reference,
    judge_syncnet_from_reference,
    syncnet_from_reference,
    syncnet_to_reference,
    unet_from_reference,
    unet_to_reference,
    videomae_from_reference,
    whisper_encoder_from_reference,
)
from lipsync_lightning.models.reference_names import renamed, unet_arguments_from_reference, whisper_names
from lipsync_lightning.models.released import SYNCNET_CONFIG, VIDEOMAE_CONFIG, unet_config
from lipsync_lightning.models.syncnet import StableSyncNet
from lipsync_lightning.models.unet import LipSyncUNet
from lipsync_lightning.models.videomae import VideoMAEFeatures
from lipsync_lightning.models.weights_io import load_matching
from oracle import fill_state_dict

FIXTURES = Path(__file__).parents[1] / "fixtures"
MOTIONS = ("none", "all", "up")
LEVELS = 4
TEMPORAL = "up_blocks.0.motion_modules.0.temporal_transformer"
POSITIONS = f"{TEMPORAL}.transformer_blocks.0.attention_blocks.{{}}.pos_encoder.pe"

# num entries, num parameters and listing of the released U-Nets at full size.
FULL_SIZE = {
    "none": (686, 849_962_244, "06c3a1af86928160"),
    "all": (1246, 1_267_099_844, "28afe0902c5db8f6"),
    "up": (1022, 1_100_244_804, "56a97c12cc4e72e0"),
}


def listing(weights: dict[str, Tensor]) -> str:
    """The beginning of the sha256 of all names, shapes and types."""
    types = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in weights.items()}
    lines = sorted(f"{name} {list(tensor.shape)} {types[name]}" for name, tensor in weights.items())
    return sha256("\n".join(lines).encode()).hexdigest()[:16]


def on_meta(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    with torch.device("meta"):
        return build().state_dict()


def reference_config(motion: str, full_size: bool = False) -> dict[str, Any]:
    """The `model` section of the reference's YAML file."""
    sizes = {"attention_head_dim": 4, "block_out_channels": [32, 32, 64, 64], "cross_attention_dim": 16}
    sizes |= {"layers_per_block": 1, "norm_num_groups": 8}
    if full_size:
        sizes = {"attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 384}
        sizes |= {"layers_per_block": 2, "norm_num_groups": 32}
    return {
        **sizes,
        "act_fn": "silu",
        "add_audio_layer": True,
        "in_channels": 13,
        "out_channels": 4,
        "sample_size": 64,
        "down_block_types": ["CrossAttnDownBlock3D"] * (LEVELS - 1) + ["DownBlock3D"],
        "up_block_types": ["UpBlock3D"] + ["CrossAttnUpBlock3D"] * (LEVELS - 1),
        "use_motion_module": motion != "none",
        "motion_module_resolutions": [1, 2, 4, 8],
        "motion_module_decoder_only": motion == "up",
        "motion_module_type": "Vanilla",
        "motion_module_kwargs": {
            "num_attention_heads": sizes["attention_head_dim"],
            "num_transformer_block": 1,
            "attention_block_types": ["Temporal_Self", "Temporal_Self"],
            "temporal_position_encoding": True,
            "temporal_position_encoding_max_len": 24,
            "temporal_attention_dim_div": 1,
            "zero_initialize": True,
        },
    }


@cache
def reference_weights(motion: str) -> dict[str, Tensor]:
    """The weights that the reference was run with, under its names."""
    unet = LipSyncUNet(**unet_arguments_from_reference(reference_config(motion)))
    return fill_state_dict(unet_to_reference(unet), through_half=True)


def reference_unet(motion: str) -> LipSyncUNet:
    return unet_from_reference(reference_weights(motion), reference_config(motion))


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    return load_file(FIXTURES / "unet_inputs.safetensors")


def assert_within(actual: Tensor, expected: Tensor, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("motion", MOTIONS)
def test_outputs_and_gradients_are_the_references(motion, inputs):
    unet, expected = reference_unet(motion), load_file(FIXTURES / f"unet_{motion}.safetensors")
    sample = inputs["sample"].clone().requires_grad_()
    audio = inputs["encoder_hidden_states"].clone().requires_grad_()
    output = unet(sample, inputs["timestep"], audio)
    (output * inputs["probe"]).sum().backward()
    assert sample.grad is not None
    assert audio.grad is not None
    assert_within(output[..., ::2, ::2], expected["out"])
    assert_within(sample.grad[..., ::4, ::4], expected["grad_sample"])
    assert_within(audio.grad, expected["grad_audio"])
    norms = {name: parameter.grad.norm() for name, parameter in unet.named_parameters() if parameter.grad is not None}
    named = unet_to_reference(unet)
    own_names = {tensor.data_ptr(): name for name, tensor in unet.named_parameters()}
    parameters = sorted(name for name, tensor in named.items() if tensor.data_ptr() in own_names)
    actual = torch.stack([norms[own_names[named[name].data_ptr()]] for name in parameters])
    torch.testing.assert_close(actual, expected["parameter_grad_norms"], rtol=1e-5, atol=0)
    with torch.no_grad():  # one timestep for all clips, and a single frame
        assert_within(unet(sample, 500, audio)[..., ::4, ::4], expected["out_t500"])
        one_frame = unet(sample[:, :, :1], inputs["timestep"], audio[:, :1])
        assert_within(one_frame[..., ::2, ::2], expected["out_one_frame"])


@pytest.mark.parametrize("motion", MOTIONS)
def test_released_weights_come_back_bit_for_bit_under_their_names(motion):
    weights = reference_weights(motion)
    for given in (weights, {name: tensor.half() for name, tensor in weights.items()}):
        unet = unet_from_reference(given, reference_config(motion))
        assert not unet.training
        back = unet_to_reference(unet)
        assert set(back) == set(weights)
        assert all(torch.equal(back[name], tensor.float()) for name, tensor in given.items())


def test_what_does_not_fit_is_listed_with_its_number():
    weights = dict(reference_weights("up"))
    weights["conv_in.weight"] = torch.zeros(32, 9, 3, 3)
    del weights["conv_out.bias"], weights[f"{TEMPORAL}.proj_in.bias"]
    weights["conv_extra.bias"] = torch.zeros(1)
    with pytest.raises(WrongWeights) as caught:
        unet_from_reference(weights, reference_config("up"))
    message = str(caught.value)
    assert f"2 missing: {TEMPORAL}.proj_in.bias, conv_out.bias" in message
    assert "1 unexpected: conv_extra.bias" in message
    assert "1 misshapen: conv_in.weight (32, 9, 3, 3) instead of (32, 13, 3, 3)" in message


@pytest.mark.parametrize("name", sorted(set(reference_weights("up")))[::40])
def test_no_entry_of_a_checkpoint_may_be_missing(name):
    weights = {key: tensor for key, tensor in reference_weights("up").items() if key != name}
    with pytest.raises(WrongWeights, match=rf"1 missing: {name}"):
        unet_from_reference(weights, reference_config("up"))


def test_a_second_table_of_positions_that_differs_is_not_dropped():
    weights = dict(reference_weights("up"))
    weights[POSITIONS.format(1)] = weights[POSITIONS.format(1)] + 1
    with pytest.raises(WrongWeights, match="differs from"):
        unet_from_reference(weights, reference_config("up"))


def test_a_unet_that_the_reference_could_not_compute_does_not_go_back():
    arguments = unet_arguments_from_reference(reference_config("all"))
    with pytest.raises(BadConfig, match="16 groups in their norm, the reference's always 32"):
        unet_to_reference(LipSyncUNet(**arguments, motion_norm_num_groups=16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"act_fn": "gelu"}, "act_fn is 'gelu', must be 'silu'"),
        ({"only_cross_attention": True}, "only_cross_attention is True, must be False"),
        ({"sharpness": 3}, "sharpness is unknown"),
        ({"motion_module_resolutions": [1, 2]}, "motion_module_resolutions"),
        ({"up_block_types": ["CrossAttnUpBlock3D"] * LEVELS}, "mirror"),
        ({"down_block_types": ["Oddity"] * LEVELS}, "'Oddity'"),
        ({"motion_module_kwargs": {"num_attention_heads": 4}}, "temporal_position_encoding_max_len is missing"),
    ],
)
def test_a_configuration_no_released_network_has_is_refused(changes, message):
    with pytest.raises(BadConfig, match=message):
        unet_arguments_from_reference({**reference_config("all"), **changes})


def test_temporal_modules_added_to_stage_one_change_nothing_at_first(inputs):
    stage_one = reference_unet("none")
    stage_two = LipSyncUNet(**unet_arguments_from_reference(reference_config("all"))).eval()
    kept = load_matching(stage_two, stage_one.state_dict())
    assert kept
    assert all("motion_modules." in name for name in kept)
    arguments = inputs["sample"], inputs["timestep"], inputs["encoder_hidden_states"]
    with torch.no_grad():
        assert torch.equal(stage_two(*arguments), stage_one(*arguments))


@pytest.mark.parametrize("motion", MOTIONS)
def test_full_size_names_and_shapes_are_the_released_ones_in_both_directions(motion):
    config = reference_config(motion, full_size=True)
    with torch.device("meta"):
        named = unet_to_reference(LipSyncUNet(**unet_arguments_from_reference(config)))
    num_parameters = sum(parameter.numel() for parameter in unet_from_reference(named, config).parameters())
    assert (len(named), num_parameters, listing(named)) == FULL_SIZE[motion]


# The released networks at full size, as the files list them: without Whisper's decoder and VideoMAE's classifier.
def encoder(
    in_channels: int, channels: list[int], factors: list[Any], attention: tuple[int, ...] = ()
) -> dict[str, Any]:
    attn_blocks = [int(index in attention) for index in range(len(channels))]
    sizes = {"in_channels": in_channels, "block_out_channels": channels, "downsample_factors": factors}
    return {**sizes, "attn_blocks": attn_blocks, "dropout": 0.0}


MEL = (1, [32, 64, 128, 256, 512, 1024, 2048], [[2, 1], 2, 2, 1, 2, 2, [2, 3]])
LIPS = (48, [64, 128, 256, 256, 512, 1024, 2048, 2048], [[1, 2], 2, 2, 2, 2, 2, 2, 2])
MEL_LATENT = (1, [32, 64, 128, 256, 512, 1024], [[2, 1], 2, 2, 2, 2, [2, 3]])
LATENTS = (64, [64, 128, 256, 256, 512, 1024], [2, 2, 2, 1, 2, 2])
MEL_25 = (1, [64, 128, 256, 256, 512, 1024], [2] * 6)
LIPS_25 = (75, [128, 128, 256, 256, 512, 512, 1024, 1024], LIPS[2])
# Encoders of sound and of lips, the listing's digest, the lips' shape, columns of mel, the experiment that trains it.
SYNCNETS = {
    "attn": (encoder(*MEL, (3, 4)), encoder(*LIPS, (4, 5)), "765b8819d8ec5c25", (48, 128, 256), 52, "syncnet"),
    "16_pixel": (encoder(*MEL), encoder(*LIPS), "018180c9a5d0898d", (48, 128, 256), 52, None),
    "latent": (encoder(*MEL_LATENT), encoder(*LATENTS), "70c82b4b79f8933b", (64, 32, 32), 52, "syncnet_latent"),
    "25_pixel": (encoder(*MEL_25), encoder(*LIPS_25), "018326b40ed5abae", (75, 128, 256), 80, "syncnet_25px"),
}
WHISPER_TINY = {"n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": 384, "n_audio_head": 6, "n_audio_layer": 4}
VIT_G = {
    **{"image_size": 224, "patch_size": 14, "num_frames": 16, "tubelet_size": 2},
    **{"embed_dim": 1408, "depth": 40, "num_heads": 16, "mlp_width": 6144},
}


@pytest.mark.parametrize("name", SYNCNETS)
def test_full_size_syncnets_are_the_released_ones_in_both_directions(name):
    audio_encoder, visual_encoder, digest, lips, columns, experiment = SYNCNETS[name]
    config = {"audio_encoder": audio_encoder, "visual_encoder": visual_encoder}
    weights = on_meta(lambda: StableSyncNet(**config))
    without = {part: {k: v for k, v in encoder.items() if k != "attn_blocks"} for part, encoder in config.items()}
    network = syncnet_from_reference(weights, config if name == "attn" else without)
    assert listing(weights) == listing(syncnet_to_reference(network)) == digest
    with torch.device("meta"):
        vision, audio = network(torch.zeros(1, *lips), torch.zeros(1, 1, 80, columns))
    assert vision.shape == audio.shape
    assert name != "attn" or config == SYNCNET_CONFIG
    if experiment:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
            configured = compose("train", overrides=[f"+experiment={experiment}"]).module.syncnet
        assert {part: configured[part] for part in config} == config


def test_full_size_whisper_tiny_is_the_released_one_without_its_decoder(caplog):
    caplog.set_level("INFO")
    weights = renamed(on_meta(lambda: WhisperAudioEncoder(**WHISPER_TINY)), whisper_names)
    assert listing(weights) == "8440a4cf907653b2"
    with_decoder = {**weights, "decoder.token_embedding.weight": torch.empty(51865, 384, device="meta")}
    loaded = whisper_encoder_from_reference(with_decoder, {**WHISPER_TINY, "n_vocab": 51865})
    assert "left out on purpose: 1 entries, such as decoder.token_embedding.weight" in caplog.text
    num_positions = 1500 * 384  # are no parameter there
    assert sum(parameter.numel() for parameter in loaded.parameters()) - num_positions == 7_632_384


def test_full_size_videomae_is_the_released_one_without_its_classifier():
    weights = on_meta(lambda: VideoMAEFeatures(**VIT_G))
    assert listing(weights) == "520003522efbe34e"
    classifier = {"head.weight": torch.empty(174, 1408, device="meta"), "head.bias": torch.empty(174, device="meta")}
    fixed = {"qkv_bias": True, "use_mean_pooling": True, "layer_norm_eps": 1e-6}
    without_effect = {"num_classes": 174, "drop_path_rate": 0.3}
    loaded = videomae_from_reference({**weights, **classifier}, {**VIDEOMAE_CONFIG, **fixed, **without_effect})
    assert {name: loaded.config[name] for name in VIT_G} == VIT_G
    assert loaded.num_parameters() + 174 * 1408 + 174 == 1_011_855_918
    assert listing(dict(loaded.state_dict())) == "520003522efbe34e"
    assert not loaded.positions_AD.is_meta


@pytest.mark.parametrize(
    ("load", "network", "digest"),
    [
        (judge_syncnet_from_reference, JudgeSyncNet, "3c599dfcbd48905e"),
        (hyperiqa_from_reference, HyperIQA, "58bbc4a89a51519c"),
    ],
)
def test_judges_are_the_released_ones(load, network, digest):
    weights = on_meta(network)
    assert listing(weights) == digest
    assert listing(dict(load(weights).state_dict())) == digest


def test_the_released_configurations_are_what_the_reference_states():
    """Values that leave no trace in shapes, so that nothing else would notice: written down here once more."""
    for motion in MOTIONS:
        section = unet_config(motion)
        assert (section["attention_head_dim"], section["norm_num_groups"], section["layers_per_block"]) == (8, 32, 2)
        assert section["motion_module_kwargs"] == {"num_attention_heads": 8, "temporal_position_encoding_max_len": 24}
        assert unet_arguments_from_reference(section) == unet_arguments_from_reference(
            reference_config(motion, full_size=True)
        )
        stage = {"none": "stage1", "all": "stage2", "up": "stage2_efficient"}[motion]
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
            configured = compose(f"models/unet/{stage}").models.unet
        released = OmegaConf.create(unet_arguments_from_reference(section))
        assert {key: released[key] for key in configured if key != "_target_"} == {
            key: value for key, value in configured.items() if key != "_target_"
        }


LOADERS = {
    "StableSyncNet": lambda weights: syncnet_from_reference(weights, SYNCNET_CONFIG),
    "Whisper's encoder": lambda weights: whisper_encoder_from_reference(weights, WHISPER_TINY),
    "VideoMAE": lambda weights: videomae_from_reference(weights, VIDEOMAE_CONFIG),
    "the evaluation SyncNet": judge_syncnet_from_reference,
    "HyperIQA": hyperiqa_from_reference,
}


@pytest.mark.parametrize("network", LOADERS)
def test_every_network_refuses_a_unets_weights(network):
    with pytest.raises(WrongWeights, match=rf"do not fit {network}, \d+ entries expected.*missing.*unexpected: conv_"):
        LOADERS[network](reference_weights("none"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: syncnet_from_reference({}, {"model": {}}), "audio_encoder is missing.*model is unknown"),
        (lambda: whisper_encoder_from_reference({}, {"n_mels": 80}), "n_audio_ctx is missing"),
        (lambda: videomae_from_reference({}, {**VIDEOMAE_CONFIG, "qkv_bias": False}), "False, must be True"),
        (lambda: videomae_from_reference({}, {**VIDEOMAE_CONFIG, "depht": 3}), "depht is unknown"),
        (lambda: videomae_from_reference({}, {"depth": 3}), "embed_dim is missing"),
        (lambda: syncnet_from_reference({}, {"audio_encoder": {}, "visual_encoder": {}}), "no StableSyncNet can be"),
        (lambda: unet_from_reference({}, {**reference_config("all"), "attention_head_dim": [4]}), "U-Net can be made"),
        (lambda: whisper_encoder_from_reference({}, {**WHISPER_TINY, "n_audio_head": 5}), "encoder can be made"),
    ],
)
def test_a_configuration_of_something_else_is_refused(call, message):
    with pytest.raises(BadConfig, match=message):
        call()
