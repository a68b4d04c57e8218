import numpy as np
import torch

from lipsync_lightning.media.frames import to_float, to_uint8

EVERY_LEVEL = np.arange(256, dtype=np.uint8)


def test_every_level_survives_the_way_to_float_and_back_and_the_input_stays_as_it_was():
    levels = torch.from_numpy(EVERY_LEVEL.copy())
    assert torch.equal(to_uint8(to_float(levels)), torch.from_numpy(EVERY_LEVEL))
    assert torch.equal(levels, torch.from_numpy(EVERY_LEVEL))
    assert torch.equal(to_float(levels), to_float(EVERY_LEVEL))
    assert to_float(EVERY_LEVEL)[[0, 255]].tolist() == [-1, 1]
    assert to_uint8(torch.tensor([-1.5, 1.5])).tolist() == [0, 255]
