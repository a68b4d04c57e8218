from collections import Counter

import numpy as np
import pytest

from lipsync_lightning.data.order import Visit, WindowOrder

WINDOWS = np.array([2, 1, 3, 0, 4, 1, 2, 3, 1, 2])
SHARD_OF = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 3])


def order(seed: int = 1, shuffle_buffer: int = 4) -> WindowOrder:
    return WindowOrder(num_windows=WINDOWS, shard_of=SHARD_OF, seed=seed, shuffle_buffer=shuffle_buffer)


def windows(visits: list[Visit]) -> list[tuple[int, int, int]]:
    return [(visit.epoch, visit.clip, number) for visit in visits for number in range(visit.first, visit.last)]


def row(epoch: int = 0, taken: int = 0, **changes: int) -> list[tuple[int, int, int]]:
    return [window for piece in order(**changes).pieces(epoch, taken, 1) for window in windows(piece)]


def test_an_epoch_holds_every_window_once_and_the_next_one_in_another_order():
    first, second = row(0), row(1)
    assert Counter(first) == Counter((0, clip, number) for clip, count in enumerate(WINDOWS) for number in range(count))
    assert {epoch for epoch, _, _ in second} == {1}
    assert [window[1:] for window in first] != [window[1:] for window in second]
    assert Counter(window[1:] for window in first) == Counter(window[1:] for window in second)


@pytest.mark.parametrize(("taken", "size"), [*((taken, 1) for taken in range(20)), (7, 3), (0, 5), (7, 19)])
def test_from_any_place_and_in_pieces_of_any_size_the_row_is_the_same(taken: int, size: int):
    pieces = list(order().pieces(0, taken, size))
    assert [len(windows(piece)) for piece in pieces[:-1]] == [size] * (len(pieces) - 1)
    assert [window for piece in pieces for window in windows(piece)] == row(0)[taken:]
