"""A job that was killed goes on at the last finished scene, and only if it is the same job."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lipsync_lightning.errors import WouldOverwrite
from lipsync_lightning.files import owned
from lipsync_lightning.media.people import SidecarPeople
from lipsync_lightning.pipeline import painting
from lipsync_lightning.pipeline.lipsync import LipSyncPipeline
from tiny_media import POINTS, numbered_frames, sound_of, write_video

NUM_FRAMES, CUT = 24, 12


@pytest.fixture
def call(tmp_path: Path, out: Path) -> dict[str, Any]:
    """A video of two shots, dark and light."""
    frames = numbered_frames(NUM_FRAMES) // 2
    frames[CUT:, :, :, 0] += 150
    video = write_video(tmp_path / "raw" / "v.mp4", NUM_FRAMES, sound_of(NUM_FRAMES), frames=frames)
    return {"video": video, "audio": video, "out": out, "faces": SidecarPeople()}


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many windows the model has made."""
    counts, real = [], painting.to_uint8
    monkeypatch.setattr(painting, "to_uint8", lambda faces: real(counts.append(len(faces)) or faces))
    return counts


def broken_after(monkeypatch: pytest.MonkeyPatch, num_calls: int) -> Callable[[], None]:
    real, calls = painting.paste_back, iter(range(999))

    def paste(*arguments: Any) -> Any:
        if next(calls) == num_calls:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(painting, "paste_back", paste)
    return lambda: monkeypatch.setattr(painting, "paste_back", real)


def test_finished_scenes_are_not_made_again_and_the_result_is_the_same(
    pipeline: LipSyncPipeline, call: dict[str, Any], out: Path, painted: list[int], monkeypatch: pytest.MonkeyPatch
):
    pipeline(**call)
    whole, num_windows = out.read_bytes(), len(painted)
    out.write_text("former")
    mend = broken_after(monkeypatch, CUT + 3)
    with pytest.raises(KeyboardInterrupt):
        pipeline(**call)
    assert out.read_text() == "former"
    assert [path.name for path in out.parent.rglob("*") if path.suffix in (".mp4", ".part")] == [
        "result.mp4",
        "000000.mp4",
    ]
    mend()
    painted.clear()
    pipeline(**call)
    assert len(painted) == num_windows / 2
    assert out.read_bytes() == whole
    assert list(out.parent.iterdir()) == [out]


def test_another_job_begins_afresh(pipeline, call, out, painted, monkeypatch):
    mend = broken_after(monkeypatch, CUT + 3)
    with pytest.raises(KeyboardInterrupt):
        pipeline(**call)
    mend()
    painted.clear()
    pipeline(**call, seed=5)
    fresh, num_windows = out.read_bytes(), len(painted)
    painted.clear()
    pipeline(**call, seed=5)
    assert (out.read_bytes(), len(painted)) == (fresh, num_windows)


def test_two_jobs_with_one_result_are_told_apart_and_nothing_is_lost(pipeline, call, out):
    out.parent.mkdir()
    out.write_text("former")
    with owned(out.with_name(f".{out.name}.job")), pytest.raises(WouldOverwrite, match="is at work in"):
        pipeline(**call)
    assert out.read_text() == "former"


def test_what_was_made_with_other_points_or_weights_is_not_taken(pipeline, call, out, painted, monkeypatch):
    points = call["video"].with_suffix(".json")
    for change in ("points", "weights"):
        mend = broken_after(monkeypatch, CUT + 3)
        with pytest.raises(KeyboardInterrupt):
            pipeline(**call)
        mend()
        if change == "points":
            points.write_text(json.dumps({"points": [(POINTS + 1).tolist()] * NUM_FRAMES}))
        else:
            next(pipeline.unet.parameters()).data.neg_()
        painted.clear()
        pipeline(**call)
        resumed, num_windows = out.read_bytes(), len(painted)
        painted.clear()
        pipeline(**call)
        assert (out.read_bytes(), len(painted)) == (resumed, num_windows)
