"""A loss: generated frames change from one to the next as the real ones do."""

from torch import Tensor
from torch.nn import functional

from lipsync_lightning.losses.terms import Loss, StepOutput


class TemporalDifferenceLoss(Loss):
    """Mean absolute difference of the changes between neighbouring frames: what flickers or stands still costs.

    It needs no network, where TREPA needs one of a billion parameters.
    """

    def reads(self, step: StepOutput) -> tuple[Tensor, ...]:
        return step.frames_pred, step.frames

    def forward(self, generated: Tensor, real: Tensor) -> Tensor:
        """Return the scalar loss of two (B, T, 3, H, W) videos in [-1, 1]; 0 for equal motion."""
        return functional.l1_loss(generated.diff(dim=1), real.diff(dim=1))
