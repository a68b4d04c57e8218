import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from lipsync_lightning.cli import build
from lipsync_lightning.files import CONF_DIR
from lipsync_lightning.models.wav2lip import Wav2LipGenerator

NUM_TOKENS, TOKEN_WIDTH = 3, 8


@pytest.fixture
def generator() -> Wav2LipGenerator:
    return Wav2LipGenerator(channels=[8, 16, 24], speech_channels=16, num_tokens=NUM_TOKENS, token_width=TOKEN_WIDTH)


@pytest.fixture
def clips() -> tuple[Tensor, Tensor, Tensor]:
    """Masked frames, reference and audio tokens of 2 clips of 4 frames."""
    masked, reference = torch.rand(2, 2, 4, 3, 32, 32) * 2 - 1
    return masked, reference, torch.randn(2, 4, NUM_TOKENS, TOKEN_WIDTH)


def test_frames_come_out_as_large_as_they_went_in_and_within_their_range(generator, clips):
    masked, reference, audio = clips
    frames = generator(masked, reference, 100 * audio)
    assert frames.shape == masked.shape
    assert -1 <= frames.min() < frames.max() <= 1


@pytest.mark.parametrize("which", ["masked", "reference", "audio"])
def test_a_frame_depends_on_its_own_picture_reference_and_sound_and_on_no_other_frames(generator, clips, which):
    inputs = dict(zip(("masked", "reference", "audio"), clips, strict=True))
    inputs[which].requires_grad_()
    generator.eval()(**inputs)[1, 2].sum().backward()
    assert inputs[which].grad is not None
    felt = inputs[which].grad.abs().flatten(2).amax(dim=2)
    assert felt[1, 2] > 0
    assert felt.sum() == felt[1, 2]


@pytest.mark.parametrize("experiment", ["wav2lip", "demo/wav2lip"])
def test_the_generator_of_an_experiment_fits_its_audio_encoder_and_its_faces(experiment):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        config = compose("train", overrides=[f"+experiment={experiment}"])
    tokens = build(config.audio_encoder).tokens(torch.zeros(4 * config.clip.sample_rate_hz // config.clip.fps), 4)
    with torch.device("meta"):
        generator = build(config.module.generator)
        pictures = torch.empty(1, 4, 3, config.clip.resolution, config.clip.resolution)
        assert generator(pictures, pictures, tokens[None].to("meta")).shape == pictures.shape


def test_every_parameter_takes_part(generator, clips):
    generator(*clips).square().sum().backward()
    assert [name for name, parameter in generator.named_parameters() if parameter.grad is None] == []
    # A batch norm cancels the bias in front of it.
    idle = [
        name
        for name, parameter in generator.named_parameters()
        if not parameter.grad.any() and not name.endswith("conv_block.0.bias")
    ]
    assert idle == []
