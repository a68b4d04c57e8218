"""What a training step hands to its losses, and the weighted sum of the terms that the YAML names."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lipsync_lightning.errors import BadConfig


class StepOutput(SimpleNamespace):
    """What a step made of B clips: the fields a module has. Latents: (B, T, C, h, w), frames: (B, T, 3, H, W)."""

    prediction: Tensor  # latents: what the U-Net said, noise or velocity as the schedule has it
    target: Tensor  # latents: what it should have said
    clean_pred: Tensor  # latents: the one-step estimate
    timesteps: np.ndarray  # (B,), int64; this and the next are on the host
    noise: Tensor  # latents
    has_audio: np.ndarray  # (B,), bool: False where the sound was dropped
    frames: Tensor  # the real ones
    frames_pred: Tensor  # those of `clean_pred`, decoded once, and only if a loss looks at them
    mel: Tensor  # (B, 1, M, L), heard during the frames
    audio: Tensor  # (B, T, A, D), its tokens
    keep_mask: Tensor  # (B, 1, H, W), 1 = keep, 0 = generated
    ids: list[str]  # of the clips the windows come from
    decode: Callable[[Tensor], Tensor]  # latents -> frames, with gradients
    predict: Callable[[Tensor, Tensor, Tensor], Tensor]  # noisy latents, timesteps, audio -> what the U-Net says

    def __getattr__(self, name: str) -> Any:
        if name == "frames_pred" and "decode" in vars(self):
            self.frames_pred = self.decode(self.clean_pred)
            return self.frames_pred
        if name not in StepOutput.__annotations__:
            raise AttributeError(name)
        raise BadConfig(f"a loss term reads `{name}`, this module has {sorted(vars(self))}; set the term to null")


class Loss(nn.Module, ABC):
    """A loss of tensors (B, ...) that owns the frozen networks it needs; `forward` returns a scalar."""

    @abstractmethod
    def reads(self, step: StepOutput) -> tuple[Tensor, ...]:
        """Return the fields of a step that are the arguments of `forward`."""

    def clips(self, step: StepOutput) -> np.ndarray | None:
        """Return which clips (B,), bool, it may look at; None means all. It is asked on the host."""
        return None


class NoiseLoss(Loss):
    """The diffusion target: mean squared error of the prediction."""

    def reads(self, step: StepOutput) -> tuple[Tensor, ...]:
        return step.prediction, step.target

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return functional.mse_loss(prediction, target)


class WeightedLoss(nn.Module):
    """One term: a loss, its weight, and which clips and frames it looks at."""

    def __init__(
        self, *, weight: float, loss: Loss, every_nth_frame: int = 1, timesteps: Sequence[int] | None = None
    ) -> None:
        """Args:
        every_nth_frame: of the videos that the loss reads.
        timesteps: lowest and highest one at which a clip counts, None means all: at high ones the one-step estimate is
            a blur, about which a loss of pictures has little to say.
        Raises: BadConfig, for values that mean nothing.
        """
        super().__init__()
        if not isinstance(weight, int | float) or not isfinite(weight) or weight < 0:
            raise BadConfig(f"weight={weight!r} of a loss term: give a finite number, 0 or more")
        if every_nth_frame < 1 or (timesteps is not None and (len(timesteps) != 2 or timesteps[0] > timesteps[1])):
            raise BadConfig(f"{every_nth_frame=}, {timesteps=}: give 1 or more, and [lowest, highest]")
        self.weight = weight
        self.loss = loss
        self.every_nth_frame = every_nth_frame
        self.timesteps = timesteps

    def forward(self, step: StepOutput) -> Tensor:
        """Return the unweighted loss of the clips and frames it looks at, 0 where no clip counts."""
        inputs = self.loss.reads(step)
        counts_B = self.loss.clips(step)
        if self.timesteps is not None:
            in_range_B = (step.timesteps >= self.timesteps[0]) & (step.timesteps <= self.timesteps[1])
            counts_B = in_range_B if counts_B is None else counts_B & in_range_B
        if counts_B is not None and not counts_B.all():
            kept = torch.from_numpy(counts_B.nonzero()[0])
            inputs = tuple(tensor[kept.to(tensor.device, non_blocking=True)] for tensor in inputs)
            if not len(kept):  # zero, but in the graph, as on the other ranks
                return torch.stack([tensor.sum() * 0.0 for tensor in inputs]).sum()
        return self.loss(*(each[:, :: self.every_nth_frame] if each.ndim == 5 else each for each in inputs))


class WeightedLosses(nn.Module):
    """Sums the terms it was given. A term that is absent computes nothing and holds no network."""

    def __init__(self, *, terms: Mapping[str, WeightedLoss | None]) -> None:
        """Args: terms: by name; an experiment removes a term of the YAML it builds on by setting it to null."""
        super().__init__()
        self.terms = nn.ModuleDict({name: term for name, term in terms.items() if term is not None})
        if not self.terms:
            raise BadConfig("module.losses.terms has no term left; keep one, or nothing is learned")

    def require_trained(self, density: np.ndarray) -> None:
        """Raises: BadConfig, if a term counts at none of the timesteps that are trained, or at some that are none.

        Args: density: (T,), how often each timestep of the schedule is trained at.
        """
        trained = np.flatnonzero(density)
        for name, term in self.terms.items():
            lowest, highest = term.timesteps or (0, len(density) - 1)  # pyright: ignore[reportGeneralTypeIssues]
            if highest >= len(density) or not ((trained >= lowest) & (trained <= highest)).any():
                told = f"module.losses.terms.{name}.timesteps=[{lowest}, {highest}]"
                way_out = f"give a range within 0 to {len(density) - 1} that holds some of them, or null"
                raise BadConfig(f"{told}, but trained are timesteps from {trained[0]} to {trained[-1]}: {way_out}")

    def forward(self, step: StepOutput) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum and each term's own value. Raises: BadConfig, for a field the step does not have."""
        values = {name: term(step) for name, term in self.terms.items()}
        total = sum(self.terms[name].weight * value for name, value in values.items())  # pyright: ignore[reportOperatorIssue]
        return total, values  # pyright: ignore[reportReturnType]
