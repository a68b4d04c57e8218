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
    return (
        torch.rand(2, 4, 3, 32, 32) * 2 - 1,
        torch.rand(2, 4, 3, 32, 32) * 2 - 1,
        torch.randn(2, 4, NUM_TOKENS, TOKEN_WIDTH),
    )


def test_frames_come_out_as_large_as_they_went_in_and_within_their_range(generator, clips):
    masked, reference, audio = clips
    frames = generator(masked, reference, 100 * audio)
    assert frames.shape == masked.shape
    assert -1 <= frames.min() < frames.max() <= 1


def test_a_frame_hears_its_own_sound_and_no_other_frames(generator, clips):
    masked, reference, audio = clips
    audio.requires_grad_()
    generator.eval()(masked, reference, audio)[1, 2].sum().backward()
    assert audio.grad is not None
    heard = audio.grad.abs().amax(dim=3)
    assert heard[1, 2].min() > 0
    assert heard.sum() == heard[1, 2].sum()


@pytest.mark.parametrize("which", ["masked", "reference"])
def test_a_frame_sees_itself_and_its_own_reference(generator, clips, which):
    inputs = dict(zip(("masked", "reference", "audio"), clips, strict=True))
    inputs[which].requires_grad_()
    generator.eval()(**inputs)[1, 2].sum().backward()
    assert inputs[which].grad is not None
    seen = inputs[which].grad.abs().amax(dim=(2, 3, 4))
    assert seen[1, 2] > 0
    assert seen.sum() == seen[1, 2]


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
