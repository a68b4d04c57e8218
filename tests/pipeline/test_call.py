"""Calls of the pipeline as people who know diffusers make them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler
from PIL import Image

from lipsync_lightning.errors import BadMedia
from lipsync_lightning.media.audio import read_audio
from lipsync_lightning.media.people import SidecarPeople
from lipsync_lightning.media.video import probe, read_frames
from lipsync_lightning.pipeline.lipsync import LipSyncPipeline
from tiny_media import POINTS, numbered_frames, sound_of, write_video, write_wav

NUM_FRAMES = 10
TONE = range(2, 8)


@pytest.fixture
def frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Pictures, whose face lies where a file in the working folder says."""
    monkeypatch.chdir(tmp_path)
    for name in ("the given 10 frames", "photo"):
        points = [POINTS.tolist()] * NUM_FRAMES
        Path(f"{name}.json").write_text(json.dumps({"points": points}))
    return numbered_frames(NUM_FRAMES)


def changed(made: Any, frames: np.ndarray) -> list[bool]:
    return (made.frames != frames).any(axis=(1, 2, 3)).tolist()


def test_frames_and_samples_in_memory_are_taken_in_every_common_form(pipeline: LipSyncPipeline, frames: np.ndarray):
    sound, call = sound_of(NUM_FRAMES, TONE), {"faces": SidecarPeople()}
    expected = pipeline(frames, sound, **call)
    assert expected.path is None
    assert changed(expected, frames) == [True] * NUM_FRAMES
    as_floats = torch.from_numpy(frames).float() / 255
    for video in (
        torch.from_numpy(frames),
        as_floats,
        as_floats.permute(0, 3, 1, 2),
        list(map(Image.fromarray, frames)),
    ):
        np.testing.assert_array_equal(pipeline(video, torch.from_numpy(sound), **call).frames, expected.frames)


@pytest.mark.parametrize(
    ("video", "audio", "words"),
    [
        (np.zeros((3, 8, 8), np.uint8), np.zeros(99, np.float32), r"shape \(3, 8, 8\)"),
        (np.zeros((0, 8, 8, 3), np.uint8), np.zeros(99, np.float32), r"shape \(0, 8, 8, 3\)"),
        (np.full((2, 8, 8, 3), 255.0), np.zeros(99, np.float32), r"in \[0, 1\]"),
        (np.full((2, 8, 8, 3), np.nan), np.zeros(99, np.float32), "must be finite"),
        (np.zeros((2, 8, 8, 3), np.uint8), np.full(99, np.nan, np.float32), "finite mono samples"),
        (np.zeros((2, 8, 8, 3), np.uint8), np.zeros((99, 2), np.float32), r"sound of shape \(99, 2\)"),
    ],
)
def test_arrays_that_are_neither_pictures_nor_sound_are_refused(pipeline, video, audio, words):
    with pytest.raises(BadMedia, match=words):
        pipeline(video, audio, faces=SidecarPeople())


def test_lists_give_a_result_for_each(pipeline: LipSyncPipeline, tmp_path: Path):
    videos = [write_video(tmp_path / f"{name}.mp4", 5, sound_of(5)) for name in ("one", "two")]
    outs = [tmp_path / "one out.mp4", tmp_path / "two out.mp4"]
    made = pipeline(videos, videos, out=outs, faces=SidecarPeople())
    assert [result.path for result in made] == outs
    assert all(path.is_file() for path in outs)


def test_a_generator_stands_for_a_seed_and_every_step_is_told(pipeline: LipSyncPipeline, frames: np.ndarray):
    told: list[tuple[int, float, tuple[int, ...]]] = []

    def tell(pipe: Any, step: int, timestep: float, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert pipe is pipeline
        told.append((step, timestep, tuple(tensors["latents"].shape)))
        return tensors

    call: dict[str, Any] = {"faces": SidecarPeople(), "audio": sound_of(NUM_FRAMES, TONE), "overlap": 0}
    by_seed = pipeline(frames, seed=3, **call).frames
    generator = torch.Generator().manual_seed(3)
    by_generator = pipeline(frames, generator=generator, callback_on_step_end=tell, **call).frames
    np.testing.assert_array_equal(by_generator, by_seed)
    assert [step for step, _, _ in told] == [0, 1] * 3  # two steps of three windows
    assert {shape for _, _, shape in told} == {(1, 4, 4, 8, 8)}


@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, EulerAncestralDiscreteScheduler])
def test_another_scheduler_samples_where_the_pipelines_own_is_asked_for(pipeline, frames, scheduler):
    call = {"faces": SidecarPeople(), "audio": sound_of(NUM_FRAMES, TONE)}
    before = pipeline(frames, **call).frames
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    made = pipeline(frames, solver=None, num_inference_steps=3, **call).frames
    assert (made != before).any()
    np.testing.assert_array_equal(made, pipeline(frames, solver=None, num_inference_steps=3, **call).frames)


def test_diffusers_own_doors_lead_to_this_pipeline(
    pipeline: LipSyncPipeline, frames: np.ndarray, tmp_path: Path, capfd
):
    pipeline.save_pretrained(tmp_path / "export")
    loaded: Any = DiffusionPipeline.from_pretrained(tmp_path / "export", low_cpu_mem_usage=False)
    assert isinstance(loaded, LipSyncPipeline)
    call = {"faces": SidecarPeople(), "audio": sound_of(NUM_FRAMES, TONE)}
    expected = pipeline(frames, **call).frames
    loaded.enable_model_cpu_offload(device="cpu")
    loaded.set_progress_bar_config(disable=True)
    capfd.readouterr()
    np.testing.assert_array_equal(loaded(frames, **call).frames, expected)
    assert "it/s" not in capfd.readouterr().err


def test_a_photo_speaks_as_long_as_the_sound(pipeline: LipSyncPipeline, frames: np.ndarray, out: Path):
    Image.fromarray(frames[5]).save("photo.png")
    made = pipeline(
        "photo.png", write_wav(Path("speech.wav"), np.zeros((16000, 1)), 16000), out=out, faces=SidecarPeople()
    )
    assert (made.num_frames, made.num_synced) == (25, 25)
    assert probe(out).fps == 25
    assert len(list(read_frames(out))) == 25


def test_part_of_a_video_speaks_and_the_sound_begins_when_it_is_to(pipeline, tmp_path, out):
    video = write_video(tmp_path / "v.mp4", 20, sound_of(20))
    speech = write_wav(tmp_path / "s.wav", np.full((3200, 1), 9000), 16000)  # five frames
    made = pipeline(video, speech, out=out, faces=SidecarPeople(), start=0.2, end=0.6, sound_offset=0.08)
    assert (made.num_frames, made.num_synced) == (10, 5)
    heard = read_audio(out, 16000)
    assert np.abs(heard[:1100]).max() < 0.02
    assert np.abs(heard[1500:4300]).mean() > 0.2


def test_two_people_say_their_own_lines_and_nobody_elses_pixel_changes(pipeline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frames = np.concatenate([numbered_frames(20)] * 2, axis=2)
    right = (POINTS + np.array([64, 0])).tolist()
    people = {"people": [[POINTS.tolist()] * 20, [right] * 20]}
    Path("the given 20 frames.json").write_text(json.dumps(people))
    for name in ("a", "b"):
        write_wav(Path(f"{name}.wav"), np.random.default_rng(0).normal(0, 3000, (6400, 1)), 16000)
    Path("lines.csv").write_text("person,start,end,sound\n0,0,0.2,a.wav\n1,0.4,,b.wav\n")
    made = pipeline(frames, segments="lines.csv", faces=SidecarPeople()).frames
    change = (made != frames).any(axis=(1, 3))  # frames, columns
    assert np.flatnonzero(change[:, :64].any(axis=1)).tolist() == list(range(5))
    assert np.flatnonzero(change[:, 64:].any(axis=1)).tolist() == list(range(10, 20))


def test_what_lies_before_a_face_stays_there(pipeline: LipSyncPipeline, frames: np.ndarray):
    call: dict[str, Any] = {"faces": SidecarPeople(), "audio": sound_of(NUM_FRAMES, TONE)}
    left_half = np.repeat((np.arange(32) < 16)[None], 32, axis=0).astype(np.float32)
    made = pipeline(frames, occluder=lambda face: left_half, **call).frames
    everywhere = (pipeline(frames, **call).frames != frames).any(axis=(0, 3))
    change = (made != frames).any(axis=(0, 3))
    middle = round(np.flatnonzero(everywhere.any(axis=0)).mean())
    assert not change[:, : middle - 1].any()
    assert change[:, middle + 2 :].sum() > 0.7 * everywhere[:, middle + 2 :].sum()
