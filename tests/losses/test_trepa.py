import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

from lipsync_lightning.losses.lpips import untrained_lpips
from lipsync_lightning.losses.terms import StepOutput
from lipsync_lightning.losses.trepa import PerceptualLoss, TREPALoss
from lipsync_lightning.models.videomae import VideoMAEFeatures
from lipsync_lightning.models.weights_io import enable_checkpointing
from oracle import fill_state_dict, uniform

VIDEOS = ("videos", "videos_b")
REFERENCE_VALUE = 0.000163928561960347  # of the reference's code with the weights and clips that `oracle` rebuilds


@pytest.fixture
def loss(tiny_clip) -> TREPALoss:
    tokens = {"image_size": 16, "patch_size": 8, "num_frames": tiny_clip.num_frames, "tubelet_size": 2}
    return TREPALoss(VideoMAEFeatures(**tokens, embed_dim=16, depth=1, num_heads=2, mlp_width=32))


class Remembering(nn.Module):
    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size

    def forward(self, video: Tensor) -> Tensor:
        self.video = video
        return video.flatten(1)


def test_equal_clips_cost_nothing_and_different_ones_something(loss, clip_batch):
    assert loss(clip_batch["frames"], clip_batch["frames"]).item() == 0.0
    assert loss(clip_batch["frames"], clip_batch["reference"]).item() > 0


def test_features_see_clips_of_their_size_between_zero_and_one(clip_batch):
    remembering = Remembering(16)
    TREPALoss(remembering)(clip_batch["frames"] * 3, clip_batch["frames"])
    assert remembering.video.shape == (2, 4, 3, 16, 16)
    assert remembering.video.min() == 0
    assert remembering.video.max() == 1


def test_the_value_is_the_references():
    network = VideoMAEFeatures(
        image_size=56, patch_size=14, embed_dim=32, depth=3, num_heads=4, mlp_width=139, num_frames=16, tubelet_size=2
    )
    network.load_state_dict(fill_state_dict(network.state_dict()))
    generated, real = (
        rearrange(torch.from_numpy(uniform(name, (2, 3, 16, 56, 56))).float(), "b c t h w -> b t c h w")
        for name in VIDEOS
    )
    assert TREPALoss(network)(generated, real).item() == pytest.approx(REFERENCE_VALUE, abs=1e-9)


@pytest.fixture(scope="module")
def perceptual() -> PerceptualLoss:
    torch.manual_seed(0)
    return PerceptualLoss(metric=untrained_lpips())


def test_lpips_is_zero_for_equal_frames_and_grows_with_the_change(perceptual, clip_batch):
    frames, noise = clip_batch["frames"] * 0.5, clip_batch["reference"]
    assert perceptual(frames, frames).item() == pytest.approx(0.0, abs=1e-7)
    assert 0 < perceptual(frames + 0.05 * noise, frames) < perceptual(frames + 0.5 * noise, frames)


def test_lpips_reads_the_lower_halves(perceptual, clip_batch):
    step = StepOutput(frames_pred=clip_batch["frames"], frames=clip_batch["reference"])
    for read, whole in zip(perceptual.reads(step), (step.frames_pred, step.frames), strict=True):
        assert torch.equal(read, whole[..., 16:, :])


@pytest.mark.parametrize("kind", ["perceptual", "trepa"])
def test_pieces_computed_again_give_the_same_loss_and_gradient_and_keep_less(kind, tiny_clip):
    torch.manual_seed(0)
    tokens = {"image_size": 16, "patch_size": 8, "num_frames": tiny_clip.num_frames, "tubelet_size": 2}
    features = VideoMAEFeatures(**tokens, embed_dim=16, depth=3, num_heads=2, mlp_width=256)
    loss = TREPALoss(features) if kind == "trepa" else PerceptualLoss(metric=untrained_lpips())
    real, start = torch.rand(2, 2, tiny_clip.num_frames, 3, 32, 32) * 2 - 1
    found, kept = [], []
    for pixels_at_a_time in (10**9, 3 * 32 * 32):
        if kind == "perceptual":
            loss.metric.pixels_at_a_time = pixels_at_a_time
        generated, sizes = start.clone().requires_grad_(), []
        note = lambda tensor, sizes=sizes: sizes.append(tensor.nbytes) or tensor  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            value = loss(generated, real)
        value.backward()
        found.append((value.detach(), generated.grad))
        kept.append(sum(sizes))
        enable_checkpointing(loss)
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-7)
    assert kept[1] < kept[0] / 2
