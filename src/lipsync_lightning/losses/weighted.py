"""The sum of the loss terms that the YAML names."""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lipsync_lightning.errors import BadConfig

VIDEO_DIMENSIONS = 5  # (B, T, C, H, W)
Inputs = Mapping[str, Callable[[], tuple[Tensor, ...]]]


class WeightedLoss(nn.Module):
    """One term: a loss, its weight, and which clips and frames it looks at."""

    def __init__(
        self, *, weight: float, loss: nn.Module, every_nth_frame: int = 1, timesteps: Sequence[int] | None = None
    ) -> None:
        """Args:
        every_nth_frame: of the videos that the loss is given; only for losses of videos alone.
        timesteps: lowest and highest diffusion timestep, both included, at which a clip counts; None means all. At high timesteps the
            one-step estimate of the frames is a blur, about which a loss of pictures has little to say.
        Raises: BadConfig, if the weight is no finite number, `every_nth_frame` is below 1 or the range is empty.
        """
        super().__init__()
        if not isinstance(weight, int | float) or not isfinite(weight):
            raise BadConfig(f"weight={weight!r} of a loss term: give a finite number")
        if every_nth_frame < 1 or (timesteps is not None and (len(timesteps) != 2 or timesteps[0] > timesteps[1])):
            raise BadConfig(
                f"every_nth_frame={every_nth_frame}, timesteps={timesteps}: give 1 or more, and [lowest, highest]"
            )
        self.weight = weight
        self.loss = loss
        self.every_nth_frame = every_nth_frame
        self.timesteps = None if timesteps is None else tuple(timesteps)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the unweighted loss of the frames it looks at."""
        if self.every_nth_frame == 1:
            return self.loss(*inputs)
        if any(tensor.ndim != VIDEO_DIMENSIONS for tensor in inputs):
            shapes = [tuple(tensor.shape) for tensor in inputs]
            raise BadConfig(
                f"every_nth_frame={self.every_nth_frame} needs videos (B, T, C, H, W) only, this term reads {shapes}; leave it at 1"
            )
        return self.loss(*(tensor[:, :: self.every_nth_frame] for tensor in inputs))


class WeightedLosses(nn.Module):
    """Sums the terms it was given. A term that is absent computes nothing and holds no network.

    With `checkpointing`, what a term computes is not kept for backward but computed again, term by term.
    """

    checkpointing = False

    def __init__(self, *, terms: Mapping[str, WeightedLoss | None]) -> None:
        """Args: terms: by name; an experiment removes a term of the YAML it builds on by setting it to null."""
        super().__init__()
        self.terms = nn.ModuleDict({name: term for name, term in terms.items() if term is not None})

    def forward(
        self, inputs: Inputs, timesteps: Tensor | None = None, counting: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum and each term's own value, 0 where no clip counts.

        Args:
            inputs: for every term the caller can serve, a function that makes its arguments, (B, ...); called only where the term exists.
            timesteps: (B,), of the clips; None where there are none.
            counting: by term, which clips (B,) it may look at; terms that are not named may look at all.
        Raises: BadConfig, for a term that the caller cannot serve.
        """
        unknown = sorted(set(self.terms) - set(inputs))
        if unknown:
            raise BadConfig(f"no inputs for the loss terms {unknown}; this module serves {sorted(inputs)}")
        values = {
            name: self._value(term, inputs[name](), _clips(term, timesteps, (counting or {}).get(name)))  # pyright: ignore[reportArgumentType]
            for name, term in self.terms.items()
        }
        total = sum(self.terms[name].weight * value for name, value in values.items())  # pyright: ignore[reportOperatorIssue]
        return total, values  # pyright: ignore[reportReturnType]

    def _value(self, term: WeightedLoss, inputs: tuple[Tensor, ...], clips_B: Tensor | None) -> Tensor:
        if clips_B is not None and not bool(clips_B.all()):
            inputs = tuple(tensor[clips_B] for tensor in inputs)
            if not bool(clips_B.any()):
                return torch.stack(
                    [tensor.sum() * 0.0 for tensor in inputs]
                ).sum()  # in the graph, as on the other ranks
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(term, *inputs, use_reentrant=False)  # pyright: ignore[reportReturnType]
        return term(*inputs)


def _clips(term: WeightedLoss, timesteps_B: Tensor | None, counting_B: Tensor | None) -> Tensor | None:
    """Return which clips (B,) a term looks at; None means all."""
    if term.timesteps is None or timesteps_B is None:
        return counting_B
    lowest, highest = term.timesteps
    in_range_B = (timesteps_B >= lowest) & (timesteps_B <= highest)
    return in_range_B if counting_B is None else in_range_B & counting_B
