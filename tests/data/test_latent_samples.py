from io import BytesIO

import numpy as np
import pytest

from lipsync_lightning.data.latent_samples import read_frames, stored_array
from lipsync_lightning.errors import BrokenShard


class PartOf:
    where = "here"

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)
        self.num_read = 0

    def __call__(self, first: int, size: int) -> bytes:
        self.num_read += size
        return self.content[first : first + size]


def test_any_frames_of_a_stored_array_come_back_in_half_precision():
    array = np.random.default_rng(0).normal(size=(9, 2, 3)).astype(np.float32)
    content, facts = stored_array(array)
    np.testing.assert_array_equal(np.load(BytesIO(content)), array.astype(np.float16))
    part = PartOf(content)
    np.testing.assert_array_equal(read_frames(part, facts, 4, 7), array[4:7].astype(np.float16))
    assert part.num_read == 3 * 2 * 3 * 2, "no more is read than those frames"


def test_a_frame_that_was_damaged_is_noticed_and_its_neighbours_are_not_suspected():
    content, facts = stored_array(np.ones((5, 4)))
    damaged = PartOf(content[:-1] + b"\0")
    assert read_frames(damaged, facts, 0, 4).shape == (4, 4)
    with pytest.raises(BrokenShard, match="here: frame 4 has another crc32"):
        read_frames(damaged, facts, 2, 5)
