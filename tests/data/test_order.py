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


def test_an_epoch_holds_every_window_once():
    assert Counter(row(19)) == Counter(
        (0, clip, number) for clip, count in enumerate(WINDOWS) for number in range(count)
    )


def test_the_row_goes_on_with_the_next_epoch_in_another_order():
    both = row(38)
    first, second = both[:19], both[19:]
    assert {epoch for epoch, _, _ in second} == {1}
    assert [window[1:] for window in first] != [window[1:] for window in second]
    assert Counter(window[1:] for window in first) == Counter(window[1:] for window in second)


@pytest.mark.parametrize("position", range(40))
def test_from_any_position_the_row_is_the_same(position: int):
    assert row(30, position=position) == row(70)[position : position + 30]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 19, 40])
def test_pieces_of_any_size_make_up_the_same_row(size: int):
    pieces = list(islice(order().pieces(7, size), 6))
    assert [len(windows(piece)) for piece in pieces] == [size] * 6
    assert [window for piece in pieces for window in windows(piece)] == row(6 * size, position=7)


def test_one_pass_holds_every_window_once_and_the_last_piece_is_shorter():
    pieces = order().one_pass(5)
    assert [len(windows(piece)) for piece in pieces] == [5, 5, 5, 4]
    assert [window for piece in pieces for window in windows(piece)] == row(19)
