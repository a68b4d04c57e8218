"""Which frames show the U-Net what the person looks like while it paints a window."""

from collections.abc import Callable, Sequence

Reference = Callable[[range, Sequence[int]], list[int]]  # (frames of the turn, those of the window) -> as many frames


def own_frames(turn: range, window: Sequence[int]) -> list[int]:
    """Return the frames themselves, unmasked, as published: closest in pose, but their mouth says the old words."""
    return list(window)


def previous_window(turn: range, window: Sequence[int]) -> list[int]:
    """Return the frames before: as in training, none is the window's own; only the first window shows itself.

    Where fewer lie before it in its turn, the first of them is repeated.
    """
    if window[0] == turn.start:
        return list(window)
    return [max(turn.start, frame) for frame in range(window[0] - len(window), window[0])]


REFERENCES: dict[str, Reference] = {"own_frames": own_frames, "previous_window": previous_window}
