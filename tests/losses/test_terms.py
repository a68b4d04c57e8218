import numpy as np
import pytest
import torch
from torch import Tensor

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.losses.terms import Loss, NoiseLoss, StepOutput, WeightedLoss, WeightedLosses


class MeanDifference(Loss):
    """Of predicted and real frames; of all clips, or of those with sound."""

    def __init__(self, of_sound: bool = False) -> None:
        super().__init__()
        self.of_sound = of_sound

    def reads(self, step: StepOutput) -> tuple[Tensor, ...]:
        return step.frames_pred, step.frames

    def clips(self, step: StepOutput) -> np.ndarray | None:
        return step.has_audio if self.of_sound else None

    def forward(self, generated: Tensor, real: Tensor) -> Tensor:
        return (generated - real).abs().mean()


def video_step(num_clips: int = 3) -> StepOutput:
    """Clip k differs from zero by k everywhere, and by 10 more in odd frames."""
    frames = torch.arange(float(num_clips)).reshape(-1, 1, 1, 1, 1).expand(num_clips, 4, 3, 2, 2).clone()
    frames[:, 1::2] += 10
    sound = np.array([False, True, False])
    timesteps = np.array([5, 500, 999])
    return StepOutput(
        frames_pred=frames.requires_grad_(), frames=torch.zeros_like(frames), has_audio=sound, timesteps=timesteps
    )


def one_term(loss: Loss, step: StepOutput, **options) -> Tensor:
    return WeightedLosses(terms={"it": WeightedLoss(weight=1.0, loss=loss, **options)})(step)[0]


def test_the_total_is_the_weighted_sum_and_the_terms_are_given_without_weights():
    terms = {
        "noise": WeightedLoss(weight=0.5, loss=NoiseLoss()),
        "other": WeightedLoss(weight=3.0, loss=MeanDifference()),
    }
    step = video_step()
    step.prediction, step.target = torch.full((3,), 2.0), torch.zeros(3)
    total, values = WeightedLosses(terms=terms)(step)
    assert {name: value.item() for name, value in values.items()} == {"noise": 4.0, "other": 6.0}
    assert total.item() == 0.5 * 4 + 3 * 6


def test_a_term_set_to_null_computes_nothing_and_is_gone_with_its_network():
    losses = WeightedLosses(terms={"noise": WeightedLoss(weight=1.0, loss=NoiseLoss()), "trepa": None})
    assert [name for name, _ in losses.terms.named_children()] == ["noise"]
    step = StepOutput(prediction=torch.ones(3), target=torch.zeros(3), decode=lambda _: pytest.fail("decoded"))
    assert losses(step)[0].item() == 1.0


def test_a_loss_that_reads_what_the_step_does_not_have_is_refused_by_name():
    step = StepOutput(prediction=torch.ones(3), target=torch.zeros(3))
    with pytest.raises(BadConfig, match=r"reads `frames_pred`, this module has \['prediction', 'target'\]"):
        one_term(MeanDifference(), step)


def test_every_second_frame_leaves_the_others_out():
    assert one_term(MeanDifference(), video_step(), every_nth_frame=2).item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("timesteps", "expected"), [([0, 999], 6.0), ([0, 500], 5.5), ([500, 500], 6.0), ([501, 999], 7.0), ([0, 4], 0.0)]
)
def test_only_clips_in_the_range_of_timesteps_count(timesteps, expected):
    step = video_step()
    total = one_term(MeanDifference(), step, timesteps=timesteps)
    assert total.item() == pytest.approx(expected)
    total.backward()  # a term that looks at no clip stays in the graph, as on the other ranks
    gradient = step.frames_pred.grad
    assert gradient is not None
    assert [bool(of_clip.any()) for of_clip in gradient] == [timesteps[0] <= t <= timesteps[1] for t in (5, 500, 999)]


@pytest.mark.parametrize(("timesteps", "expected"), [(None, 6.0), ([400, 999], 6.0), ([0, 10], 0.0)])
def test_clips_that_a_loss_may_not_look_at_do_not_count(timesteps, expected):
    assert one_term(MeanDifference(of_sound=True), video_step(), timesteps=timesteps).item() == expected


@pytest.mark.parametrize("weight", ["abc", float("nan"), None])
def test_a_weight_that_is_no_number_is_refused_before_training(weight):
    with pytest.raises(BadConfig, match="of a loss term: give a finite number"):
        WeightedLoss(weight=weight, loss=NoiseLoss())


@pytest.mark.parametrize("own", [[0, 686], [0, 1000]])
def test_a_term_that_counts_at_no_trained_timestep_or_outside_the_schedule_is_refused(own):
    density = np.eye(1000)[999]
    losses = WeightedLosses(terms={"it": WeightedLoss(weight=1.0, loss=NoiseLoss(), timesteps=own)})
    with pytest.raises(
        BadConfig, match=rf"terms.it.timesteps=\[0, {own[1]}\].*from 999 to 999: give a range within 0 to 999"
    ):
        losses.require_trained(density)
    WeightedLosses(terms={"it": WeightedLoss(weight=1.0, loss=NoiseLoss())}).require_trained(density)


def test_a_loss_without_any_term_or_with_a_negative_weight_is_refused():
    with pytest.raises(BadConfig, match="no term left"):
        WeightedLosses(terms={"noise": None})
    with pytest.raises(BadConfig, match="weight=-1"):
        WeightedLoss(weight=-1, loss=NoiseLoss())
