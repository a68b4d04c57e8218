import pytest
import torch
from torch import nn

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.losses.weighted import WeightedLoss, WeightedLosses


def mean_square(weight: float) -> WeightedLoss:
    return WeightedLoss(weight=weight, loss=nn.MSELoss())


def never() -> tuple[torch.Tensor, ...]:
    raise AssertionError("nobody reads this")


def videos(num_clips: int = 3) -> tuple[torch.Tensor, ...]:
    """Clip k differs from zero by k everywhere, and by 10 more in odd frames."""
    generated = torch.arange(float(num_clips)).reshape(-1, 1, 1, 1, 1).expand(num_clips, 4, 3, 2, 2).clone()
    generated[:, 1::2] += 10
    return generated.requires_grad_(), torch.zeros_like(generated)


def one_and_zero() -> tuple[torch.Tensor, ...]:
    return torch.ones(3), torch.zeros(3)


def two_and_zero() -> tuple[torch.Tensor, ...]:
    return torch.full((3,), 2.0), torch.zeros(3)


def test_the_total_is_the_weighted_sum_and_the_terms_are_given_without_weights():
    losses = WeightedLosses(terms={"noise": mean_square(0.5), "sync": mean_square(3.0)})
    total, terms = losses({"noise": one_and_zero, "sync": two_and_zero})
    assert total.item() == 0.5 * 1 + 3 * 4
    assert {name: value.item() for name, value in terms.items()} == {"noise": 1.0, "sync": 4.0}


def test_inputs_of_an_absent_term_are_never_computed():
    total, terms = WeightedLosses(terms={"noise": mean_square(1.0)})({"noise": one_and_zero, "sync": never})
    assert total.item() == 1.0
    assert set(terms) == {"noise"}


def test_a_term_set_to_null_is_gone_with_its_network():
    losses = WeightedLosses(terms={"noise": mean_square(1.0), "trepa": None})
    assert [name for name, _ in losses.terms.named_children()] == ["noise"]
    assert losses({"noise": one_and_zero, "trepa": never})[0].item() == 1.0


def test_a_term_nobody_serves_is_refused_by_name():
    with pytest.raises(BadConfig, match=r"\['lips'\]; this module serves \['noise'\]"):
        WeightedLosses(terms={"lips": mean_square(1.0)})({"noise": one_and_zero})


def test_every_second_frame_leaves_the_others_out():
    losses = WeightedLosses(terms={"noise": WeightedLoss(weight=1.0, loss=nn.L1Loss(), every_nth_frame=2)})
    assert losses({"noise": videos})[0].item() == pytest.approx(1.0)  # the mean of 0, 1 and 2


def test_frames_cannot_be_left_out_of_what_is_no_video():
    losses = WeightedLosses(terms={"noise": WeightedLoss(weight=1.0, loss=nn.L1Loss(), every_nth_frame=2)})
    with pytest.raises(
        BadConfig, match=r"every_nth_frame=2 needs videos \(B, T, C, H, W\) only, this term reads \[\(3,\), \(3,\)\]"
    ):
        losses({"noise": one_and_zero})


@pytest.mark.parametrize(
    ("timesteps", "expected"), [([0, 999], 6.0), ([0, 500], 5.5), ([500, 500], 6.0), ([501, 999], 7.0), ([0, 4], 0.0)]
)
def test_only_clips_in_the_range_of_timesteps_count(timesteps, expected):
    losses = WeightedLosses(terms={"noise": WeightedLoss(weight=1.0, loss=nn.L1Loss(), timesteps=timesteps)})
    inputs = videos()
    total, _ = losses({"noise": lambda: inputs}, torch.tensor([5, 500, 999]))
    assert total.item() == pytest.approx(expected)
    total.backward()
    gradient = inputs[0].grad
    assert gradient is not None
    assert [bool(of_clip.any()) for of_clip in gradient] == [timesteps[0] <= t <= timesteps[1] for t in (5, 500, 999)]


@pytest.mark.parametrize("arguments", [{"every_nth_frame": 0}, {"timesteps": [5, 3]}, {"timesteps": [5]}])
def test_a_choice_that_means_nothing_is_refused(arguments):
    with pytest.raises(BadConfig, match="every_nth_frame="):
        WeightedLoss(weight=1.0, loss=nn.L1Loss(), **arguments)


@pytest.mark.parametrize("weight", ["abc", float("nan"), None])
def test_a_weight_that_is_no_number_is_refused_before_training(weight):
    with pytest.raises(BadConfig, match="of a loss term: give a finite number"):
        WeightedLoss(weight=weight, loss=nn.L1Loss())


def test_checkpointing_gives_the_same_gradient_and_keeps_nothing_of_what_a_term_computes():
    class Wide(nn.Module):
        def forward(self, generated: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
            return ((generated - real).repeat(1, 50, 1, 1, 1).sin() ** 2).mean()

    losses, kept, gradients = WeightedLosses(terms={"noise": WeightedLoss(weight=2.0, loss=Wide())}), [], []
    for losses.checkpointing in (False, True):
        inputs, sizes = videos(), []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.append(tensor.nbytes) or tensor, lambda tensor: tensor
        ):
            total, _ = losses({"noise": lambda: inputs})  # noqa: B023
        total.backward()
        kept.append(sum(sizes))
        gradients.append(inputs[0].grad)
    assert torch.equal(*gradients)
    assert kept[1] < kept[0] / 10


def test_clips_that_may_not_be_looked_at_do_not_count():
    losses = WeightedLosses(terms={"a": mean_square(1.0), "b": mean_square(1.0)})
    counting = {"a": torch.tensor([False, True, False])}
    _, terms = losses({"a": videos, "b": videos}, counting=counting)
    assert (
        terms["a"].item()
        == WeightedLosses(terms={"a": mean_square(1.0)})({"a": lambda: tuple(v[1:2] for v in videos())})[0].item()
    )
    assert terms["b"].item() == WeightedLosses(terms={"b": mean_square(1.0)})({"b": videos})[0].item()


def test_a_term_that_may_look_at_no_clip_is_zero_and_stays_in_the_graph():
    generated = videos()[0].detach().clone().requires_grad_()
    losses = WeightedLosses(terms={"a": mean_square(1.0)})
    total, _ = losses({"a": lambda: (generated, videos()[1])}, counting={"a": torch.zeros(3, dtype=torch.bool)})
    assert total.item() == 0.0
    total.backward()
    assert generated.grad is not None
