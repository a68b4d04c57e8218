"""Which frames show the U-Net what the person looks like while it paints a window."""

from typing import Protocol

from torch import Tensor


class Reference(Protocol):
    """Chooses the reference frames of each window of one video, window after window."""

    def of(self, frames: Tensor) -> Tensor:
        """Return reference frames for a window of aligned faces, both (T, 3, H, W)."""
        ...


class OwnFrames:
    """The frames themselves, unmasked, as published: closest in pose, but their mouth says the old words."""

    def of(self, frames: Tensor) -> Tensor:
        return frames


class PreviousWindow:
    """The window before: as in training, reference and target do not overlap; the first window is its own reference."""

    def __init__(self) -> None:
        self._previous: Tensor | None = None

    def of(self, frames: Tensor) -> Tensor:
        reference = frames if self._previous is None else self._previous
        self._previous = frames
        return reference


REFERENCES: dict[str, type[Reference]] = {"own_frames": OwnFrames, "previous_window": PreviousWindow}
