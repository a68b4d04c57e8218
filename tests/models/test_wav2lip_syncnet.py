from hashlib import sha256
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lipsync_lightning.files import CONF_DIR
from lipsync_lightning.models.wav2lip_syncnet import Wav2LipSyncNet

LATENTSYNC_FRAMES = 5  # of LatentSync's variant of the network, whose names and shapes are known


def layers(name: str) -> dict[str, list[dict[str, Any]]]:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        config = compose(f"models/syncnet/{name}").models.syncnet
    return {encoder: OmegaConf.to_container(config[encoder]) for encoder in ("audio_encoder", "visual_encoder")}  # pyright: ignore[reportReturnType]


def test_names_shapes_and_types_are_those_of_latentsyncs_variant_but_for_the_number_of_frames():
    encoders = layers("wav2lip")
    encoders["visual_encoder"][0]["in_channels"] = 3 * LATENTSYNC_FRAMES
    with torch.device("meta"):
        network = Wav2LipSyncNet(**encoders)
    entries = {
        key: f"{key} {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
        for key, tensor in network.state_dict().items()
    }
    assert (len(entries), network.num_parameters()) == (259, 65_215_360)
    assert sha256("\n".join(sorted(entries.values())).encode()).hexdigest()[:16] == "e25df77dcbc4487b"


@pytest.mark.parametrize("encoder", ["audio_encoder", "visual_encoder"])
def test_every_pixel_of_the_demo_clip_has_a_say(encoder: str):
    network = Wav2LipSyncNet(**layers("demo_wav2lip")).eval()
    images = torch.randn((1, 48, 32, 64) if encoder == "visual_encoder" else (1, 1, 80, 52)).requires_grad_()
    hidden = images
    for block in getattr(network, encoder):
        hidden = block.conv_block(hidden)  # without ReLU, which may be dead for one picture
    hidden.sum().backward()
    assert images.grad is not None
    assert (images.grad != 0).all()
