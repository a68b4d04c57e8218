from collections import Counter
from itertools import islice

import numpy as np
import pytest

from lipsync_lightning.data.order import Visit, WindowOrder

WINDOWS = np.array([2, 1, 3, 0, 4, 1, 2, 3, 1, 2])
SHARD_OF = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 3])


def order(seed: int = 1, shuffle_buffer: int = 4) -> WindowOrder:
    return WindowOrder(num_windows=WINDOWS, shard_of=SHARD_OF, seed=seed, shuffle_buffer=shuffle_buffer)


def windows(visits: list[Visit]) -> list[tuple[int, int, int]]:
    return [(visit.epoch, visit.clip, number) for visit in visits for number in range(visit.first, visit.last)]


def row(num_windows: int, position: int = 0, **changes: int) -> list[tuple[int, int, int]]:
    pieces = islice(order(**changes).pieces(position, 1), num_windows)
    return [window for piece in pieces for window in windows(piece)]


def test_an_epoch_holds_every_window_once_and_the_next_one_in_another_order():
    both = row(38)
    first, second = both[:19], both[19:]
    assert Counter(first) == Counter((0, clip, number) for clip, count in enumerate(WINDOWS) for number in range(count))
    assert {epoch for epoch, _, _ in second} == {1}
    assert [window[1:] for window in first] != [window[1:] for window in second]
    assert Counter(window[1:] for window in first) == Counter(window[1:] for window in second)


@pytest.mark.parametrize(("position", "size"), [*((position, 1) for position in range(40)), (7, 3), (7, 19), (7, 40)])
def test_from_any_position_and_in_pieces_of_any_size_the_row_is_the_same(position: int, size: int):
    pieces = list(islice(order().pieces(position, size), 30))
    assert [len(windows(piece)) for piece in pieces] == [size] * 30
    assert [window for piece in pieces for window in windows(piece)] == row(1300)[position : position + 30 * size]


def test_one_pass_holds_every_window_once_and_the_last_piece_is_shorter():
    pieces = order().one_pass(5)
    assert [len(windows(piece)) for piece in pieces] == [5, 5, 5, 4]
    assert [window for piece in pieces for window in windows(piece)] == row(19)
