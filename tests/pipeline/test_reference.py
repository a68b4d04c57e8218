"""Which frames the U-Net is shown."""

import torch

from lipsync_lightning.pipeline.reference import REFERENCES, PreviousWindow


def test_the_previous_window_never_overlaps_the_target_once_there_is_one():
    first, second, third = torch.rand(3, 4, 3, 8, 8)
    reference = PreviousWindow()
    assert reference.of(first) is first
    assert reference.of(second) is first
    assert reference.of(third) is second


def test_each_video_starts_afresh():
    window, other = torch.rand(2, 4, 3, 8, 8)
    REFERENCES["previous_window"]().of(window)
    assert REFERENCES["previous_window"]().of(other) is other
