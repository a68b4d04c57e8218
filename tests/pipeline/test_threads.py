import threading
from contextlib import nullcontext
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
    with behind(lambda piece: allowed.acquire() and done.append(piece), num_behind=3) as put:
        for asked, piece in enumerate(ahead((made.append(piece) or piece for piece in range(20)), num_ahead=2)):
            assert len(made) <= asked + 3
            if asked >= 3:
                allowed.release()
            put(piece)
            assert asked - 2 <= len(done) <= asked
        allowed.release(3)
    assert done == made == list(range(20))


@pytest.fixture
def call(pipeline, tmp_path: Path, out: Path) -> dict[str, Any]:
    video = write_video(tmp_path / "raw" / "v.mp4", 22, sound_of(22), without_face=range(9, 11))
    return {"video": video, "audio": video, "out": out, "faces": SidecarPeople()}


def test_threads_change_no_byte(pipeline, call, out: Path, monkeypatch: pytest.MonkeyPatch):
    pipeline(**call)
    threaded = out.read_bytes()

    monkeypatch.setattr(lipsync, "ahead", lambda pieces, num_ahead: pieces)
    monkeypatch.setattr(lipsync, "behind", lambda work, num_behind: nullcontext(work))
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
