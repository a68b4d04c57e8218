import json
import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lipsync_lightning import errors
from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.media.alignment import alignment_matrices
from lipsync_lightning.media.audio import encode_flac, read_audio
from lipsync_lightning.media.masks import keep_mask
from lipsync_lightning.media.people import SidecarPeople
from lipsync_lightning.media.video import probe, read_frames
from lipsync_lightning.pipeline import lipsync, windows
from lipsync_lightning.pipeline.lipsync import LipSyncPipeline, LipSyncResult, load_pipeline
from lipsync_lightning.pipeline.reference import OwnFrames
from lipsync_lightning.pipeline.windows import PlacedFrame, aligned_windows, placed_frames, with_new_faces
from patch_region import patch_region
from tiny_media import POINTS, SIDE, numbered_frames, sound_of, write_video

NUM_FRAMES = 10  # two whole windows and a half


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "raw" / "some one.mp4", NUM_FRAMES, sound_of(NUM_FRAMES))


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    return write_speech(tmp_path / "ä speech.flac", NUM_FRAMES)


def assert_same_sound(made: Path, given: Path) -> None:
    """As AAC keeps it: whole, in place, and alike."""
    said, meant = read_audio(made), read_audio(given)
    assert 0 <= len(said) - len(meant) <= 1024
    assert np.corrcoef(said[: len(meant)], meant)[0, 1] > 0.95


def write_speech(path: Path, num_frames: float, seed: int = 0) -> Path:
    noise = np.random.default_rng(seed).normal(0, 0.1, round(num_frames * 640)).astype(np.float32)
    path.write_bytes(encode_flac(noise, 16000))
    return path


def synced(pipeline: LipSyncPipeline, video: Path, speech: Path, out: Path, **options: Any) -> np.ndarray:
    pipeline(video=video, audio=speech, out=out, faces=SidecarPeople(), **options)
    return np.stack(list(read_frames(out)))


def a_window(num_frames: int = 4, lost: tuple[int, ...] = ()) -> list[PlacedFrame]:
    points = iter([None if index in lost else POINTS for index in range(num_frames)])
    pictures = np.random.default_rng(1).integers(0, 256, (num_frames, SIDE, SIDE, 3), dtype=np.uint8)
    return list(placed_frames(pictures, lambda frame: next(points), 32))


def spoken(pipeline: LipSyncPipeline, window: list[PlacedFrame]) -> list[np.ndarray]:
    audio = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(0))
    windows = list(aligned_windows(iter(window), 4, 32))
    (faces,) = pipeline._new_faces(windows, [audio], OwnFrames(), pipeline.inpainter(seed=0))
    return list(with_new_faces(windows[0], faces))


def painted(pipeline: LipSyncPipeline, frames: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return pipeline.inpainter(seed=0)(frames=frames[None], reference=frames[None], audio=audio[None])[0]


def test_the_result_has_the_videos_frames_and_all_the_sound(pipeline, video, speech, out):
    result = pipeline(video=video, audio=speech, out=out, faces=SidecarPeople())
    made = probe(out)
    assert (made.width, made.height, made.fps) == (SIDE, SIDE, 25)
    assert len(list(read_frames(out))) == NUM_FRAMES
    assert result == LipSyncResult(out, num_frames=NUM_FRAMES, num_synced=NUM_FRAMES, sound_seconds=0.4)
    assert_same_sound(out, speech)
    assert not list(out.parent.glob("*.part"))


@pytest.mark.parametrize("fps", [24, 30000 / 1001, 50])
def test_other_frame_rates_are_kept(pipeline: LipSyncPipeline, tmp_path: Path, speech: Path, out: Path, fps: float):
    video = write_video(tmp_path / "other.mp4", 11, None, fps=fps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(synced(pipeline, video, speech, out)) == 11
    assert float(probe(out).fps) == pytest.approx(fps, rel=1e-4)


def test_pixels_outside_the_patch_are_the_inputs(pipeline: LipSyncPipeline):
    window = a_window()
    for placed, made in zip(window, spoken(pipeline, window), strict=True):
        assert placed.matrix is not None
        region = patch_region(placed.matrix, 32, placed.frame.shape)
        np.testing.assert_array_equal(made[~region], placed.frame[~region])
        assert (made[region] != placed.frame[region]).mean() > 0.3
        assert region.mean() < 0.5


def test_the_mouth_follows_the_sound_and_the_kept_region_does_not(pipeline: LipSyncPipeline, tiny_clip: ClipSpec):
    frames = torch.rand(4, 3, 32, 32) * 2 - 1
    one, other = (painted(pipeline, frames, torch.randn(4, 3, 8)) for _ in range(2))
    keep = keep_mask(tiny_clip.resolution)
    torch.testing.assert_close(one[:, :, keep == 1], frames[:, :, keep == 1], atol=1e-6, rtol=0)
    torch.testing.assert_close(one[:, :, keep == 1], other[:, :, keep == 1])
    assert (one - other)[:, :, keep == 0].abs().mean() > 1e-3
    assert one.abs().max() <= 1


def test_the_sound_under_a_later_window_reaches_its_frames(pipeline, video, tmp_path, out):
    sounds = []
    for name, loud in (("quiet", range(0)), ("loud", range(6, 7))):
        (tmp_path / f"{name}.flac").write_bytes(encode_flac(sound_of(NUM_FRAMES, loud=loud), 16000))
        sounds.append(synced(pipeline, video, tmp_path / f"{name}.flac", out.with_stem(name)).astype(int))
    change = np.abs(sounds[0] - sounds[1]).mean(axis=(1, 2, 3))
    assert change[4:8].mean() > 4 * change[:4].mean()


def test_without_guidance_and_with_it_differ_and_the_seed_repeats(pipeline, video, speech, out):
    first = synced(pipeline, video, speech, out)
    np.testing.assert_array_equal(synced(pipeline, video, speech, out), first)
    for change in ({"seed": 1}, {"guidance_scale": 1.0}, {"num_inference_steps": 3}):
        assert (synced(pipeline, video, speech, out, **change) != first).any()


def test_frames_without_a_face_pass_through_unchanged(pipeline: LipSyncPipeline):
    window = a_window(4, lost=(1, 3))
    changed = [bool((new != placed.frame).any()) for new, placed in zip(spoken(pipeline, window), window, strict=True)]
    assert changed == [True, False, True, False]
    window = a_window(4, lost=(0, 1, 2, 3))
    assert all(new is placed.frame for new, placed in zip(spoken(pipeline, window), window, strict=True))


def test_no_face_at_all_writes_nothing_and_keeps_a_former_result(pipeline, tmp_path, speech, out):
    video = write_video(tmp_path / "v.mp4", NUM_FRAMES, None, without_face=range(NUM_FRAMES))
    with pytest.raises(errors.NoFace, match=f"no face on any of {NUM_FRAMES} frames"):
        pipeline(video=video, audio=speech, out=out, faces=SidecarPeople())
    assert list(out.parent.iterdir()) == []
    out.write_text("former")
    with pytest.raises(errors.NoFace):
        pipeline(video=video, audio=speech, out=out, faces=SidecarPeople())
    assert out.read_text() == "former"
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize(
    ("num_heard", "words"), [(20, "the end is heard but not seen"), (5, "the end is shown silent")]
)
def test_sound_of_another_length_is_warned_of_and_kept_whole(pipeline, video, tmp_path, out, num_heard, words):
    speech = write_speech(tmp_path / "speech.flac", num_heard)
    with pytest.warns(UserWarning, match=words):
        assert len(synced(pipeline, video, speech, out)) == NUM_FRAMES
    assert_same_sound(out, speech)


def test_bad_inputs_are_told_apart_and_nothing_is_overwritten(
    pipeline: LipSyncPipeline, video: Path, speech: Path, tmp_path: Path, out: Path
):
    silent = write_video(tmp_path / "silent.mp4", 5, None)
    before = video.read_bytes(), speech.read_bytes()
    cases = [
        (errors.BadMedia, "no such file", {"video": tmp_path / "nowhere.mp4"}),
        (errors.BadMedia, "no such file", {"audio": tmp_path / "nowhere.wav"}),
        (errors.BadMedia, "no moving picture", {"video": speech}),
        (errors.MissingAudio, "no sound", {"audio": silent}),
        (errors.BadConfig, "num_inference_steps=0", {"num_inference_steps": 0}),
        (errors.BadConfig, "guidance_scale=-1", {"guidance_scale": -1}),
        (errors.BadConfig, "windows_at_a_time=0 must be a whole number, 1 or more", {"windows_at_a_time": 0}),
        (errors.BadConfig, "deep_features_every=0", {"deep_features_every": 0}),
        (errors.BadConfig, r"solver='euler' is none of \['ddim', 'dpm'\]", {"solver": "euler"}),
        (errors.BadConfig, "preset='fastish' mean nothing to x264", {"preset": "fastish"}),
        (errors.WouldOverwrite, "is also an input", {"out": speech}),
        (errors.WouldOverwrite, "is also an input", {"out": video.parent / ".." / video.parent.name / video.name}),
        (errors.WouldOverwrite, "is a folder", {"out": video.parent}),
    ]
    for kind, words, change in cases:
        with pytest.raises(kind, match=words):
            pipeline(**({"video": video, "audio": speech, "out": out, "faces": SidecarPeople()} | change))
        assert not out.exists()
    assert (video.read_bytes(), speech.read_bytes()) == before


def test_memory_does_not_grow_with_the_video(pipeline, tmp_path, out, monkeypatch):
    video, speech = write_video(tmp_path / "long.mp4", 60, None), write_speech(tmp_path / "speech.flac", 60)
    alive: weakref.WeakSet[np.ndarray] = weakref.WeakSet()
    most = 0

    class Frame(np.ndarray):
        """Each frame can be told from the others and watched."""

        __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]

    def watched(*arguments: Any, **options: Any) -> Iterator[np.ndarray]:
        nonlocal most
        for frame in read_frames(*arguments, **options):
            watched_frame = frame.view(Frame)
            alive.add(watched_frame)
            most = max(most, len(alive))
            yield watched_frame

    monkeypatch.setattr(lipsync, "read_frames", watched)
    pipeline(video=video, audio=speech, out=out, faces=SidecarPeople(), num_inference_steps=1)
    assert 4 < most <= 5 * 4  # one ahead, one in the model, two behind, one on its way


def test_a_saved_pipeline_is_a_diffusers_folder_and_makes_the_same_frames(pipeline, video, speech, tmp_path, out):
    first = synced(pipeline, video, speech, out)
    pipeline.save_pretrained(tmp_path / "export")
    index = json.loads((tmp_path / "export" / "model_index.json").read_text())
    assert index["_class_name"] == "LipSyncPipeline"
    assert index["clip"] == pipeline.clip.as_dict()
    assert (tmp_path / "export" / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    assert not [path for path in (tmp_path / "export").rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]
    for loaded in (load_pipeline(str(tmp_path / "export")), LipSyncPipeline.from_pretrained(tmp_path / "export")):
        np.testing.assert_array_equal(synced(loaded, video, speech, out), first)


def test_folders_that_are_no_whole_export_are_refused(pipeline: LipSyncPipeline, tmp_path: Path):
    with pytest.raises(errors.MissingWeights, match=r"no export at .*lipsync_lightning.export"):
        load_pipeline(str(tmp_path))
    export = tmp_path / "export"
    for number, damage in enumerate(("no weights", "cut weights", "cut index", "other pipeline", "other clip keys")):
        pipeline.save_pretrained(export)
        weights, index = export / "unet" / "diffusion_pytorch_model.safetensors", export / "model_index.json"
        facts = json.loads(index.read_text())
        if damage == "no weights":
            weights.unlink()
        elif damage == "cut weights":
            weights.write_bytes(weights.read_bytes()[:1000])
        elif damage == "cut index":
            index.write_text(index.read_text()[:50])
        elif damage == "other pipeline":
            index.write_text(json.dumps({"_class_name": "DDPMPipeline", "scheduler": facts["scheduler"]}))
        else:
            index.write_text(json.dumps(facts | {"unet": ["no_such_library", "Nothing"]}))
        with pytest.raises(errors.WrongWeights, match="is not a whole export") as caught:
            load_pipeline(str(export))
        assert "\n" not in str(caught.value), damage
        export = tmp_path / f"export{number}"


def test_frames_are_placed_as_training_places_them_and_anew_after_a_lost_face():
    points = [POINTS + np.array([k, k * k / 4]) for k in range(8)]
    shown = iter([*points[:5], None, *points[5:]])
    placed = list(placed_frames(numbered_frames(9), lambda frame: next(shown), 32))
    matrices = [each.matrix for each in placed]
    assert [index for index, matrix in enumerate(matrices) if matrix is None] == [5]
    before, after = (np.stack([m for m in part if m is not None]) for part in (matrices[:5], matrices[6:]))
    np.testing.assert_allclose(before, alignment_matrices(np.stack(points[:5]), 32))
    np.testing.assert_allclose(after, alignment_matrices(np.stack(points[5:]), 32))


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
