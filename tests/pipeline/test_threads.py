import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lipsync_lightning import errors
from lipsync_lightning.media.people import SidecarPeople
from lipsync_lightning.pipeline import lipsync, windows
from lipsync_lightning.pipeline.threads import ahead, behind
from tiny_media import sound_of, write_video


def test_pieces_come_in_order_and_no_more_than_allowed_are_made_early_or_wait():
    made, done, allowed = [], [], threading.Semaphore(0)

    def pieces() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    def work(piece: int) -> None:
        allowed.acquire()
        done.append(piece)

    with behind(work, num_behind=3) as put:
        for asked, piece in enumerate(ahead(pieces(), num_ahead=2)):
            assert len(made) <= asked + 3
            if asked >= 3:
                allowed.release()
            put(piece)
            assert len(done) >= asked - 2
        allowed.release(3)
    assert done == made == list(range(20))


@pytest.fixture
def call(pipeline, tmp_path: Path, out: Path) -> dict[str, Any]:
    video = write_video(tmp_path / "raw" / "v.mp4", 22, sound_of(22), without_face=range(9, 11))
    return {"video": video, "audio": video, "out": out, "faces": SidecarPeople()}


def test_threads_change_no_byte(pipeline, call, out: Path, monkeypatch: pytest.MonkeyPatch):
    pipeline(**call)
    threaded = out.read_bytes()

    class Serial:
        def __init__(self, work: Any, num_behind: int) -> None:
            self.work = work

        def __enter__(self) -> Any:
            return self.work

        def __exit__(self, *error: Any) -> None: ...

    monkeypatch.setattr(lipsync, "ahead", lambda pieces, num_ahead: pieces)
    monkeypatch.setattr(lipsync, "behind", Serial)
    pipeline(**call)
    assert out.read_bytes() == threaded


@pytest.mark.parametrize("breaking", ["reading", "model", "writing", "Ctrl-C"])
def test_what_fails_in_a_thread_is_told_as_it_is_and_leaves_nothing(pipeline, call, out: Path, monkeypatch, breaking):
    num_threads, error = threading.active_count(), errors.BadMedia("it breaks off; copy it again")
    error = KeyboardInterrupt("it breaks off") if breaking == "Ctrl-C" else error
    name = {"reading": "align", "model": "to_uint8", "writing": "paste_back", "Ctrl-C": "to_uint8"}[breaking]
    place = lipsync if name == "to_uint8" else windows
    real, calls = getattr(place, name), iter(range(99))

    def broken(*arguments: Any) -> Any:
        if next(calls) == 1:
            raise error
        return real(*arguments)

    monkeypatch.setattr(place, name, broken)
    with pytest.raises(type(error), match="it breaks off"):
        pipeline(**call)
    assert list(out.parent.iterdir()) == []
    assert threading.active_count() == num_threads
