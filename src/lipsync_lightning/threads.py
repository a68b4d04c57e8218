"""Work before and behind the model, each in a thread of its own, a bounded number of pieces apart.

FFmpeg, OpenCV, the face networks and torch let go of Python's lock while they compute, so threads are enough.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

Piece = TypeVar("Piece")


def ahead(pieces: Iterator[Piece], num_ahead: int) -> Generator[Piece]:
    """Yield the pieces in order; up to `num_ahead` more are made meanwhile. What making one raises is raised here."""
    reader = ThreadPoolExecutor(1)
    try:
        waiting = deque(reader.submit(next, pieces, None) for _ in range(num_ahead))
        while (piece := waiting.popleft().result()) is not None:
            waiting.append(reader.submit(next, pieces, None))
            yield piece
    finally:
        reader.shutdown(cancel_futures=True)


@contextmanager
def behind(work: Callable[[Any], Any], num_behind: int) -> Iterator[Callable[[Any], None]]:
    """Yield a function that has `work` done on a piece, in order; it waits while more than `num_behind` are undone.

    What the work raises is raised by that function, or at the end of the block, which waits for all of it. A block that
    ends with an exception leaves undone what has not begun.
    """
    writer, undone = ThreadPoolExecutor(1), deque[Future[Any]]()

    def put(piece: Any) -> None:
        undone.append(writer.submit(work, piece))
        while len(undone) > num_behind:
            undone.popleft().result()

    try:
        yield put
        while undone:
            undone.popleft().result()
    finally:
        writer.shutdown(cancel_futures=True)
