import torch

from lipsync_lightning.pipeline.reference import PreviousWindow


def test_the_previous_window_never_overlaps_the_target_once_there_is_one():
    first, second, third = torch.rand(3, 4, 3, 8, 8)
    reference = PreviousWindow()
    assert [reference.of(window) is shown for window, shown in ((first, first), (second, first), (third, second))]
