from dataclasses import dataclass, field
from unittest.mock import Mock

import numpy as np
import pytest

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadConfig, ClipTooShort
from lipsync_lightning.evaluation.sync import SyncScore, SyncScorer
from lipsync_lightning.preparation.filters import AlignedClip, Rejected
from lipsync_lightning.preparation.filters.sync import SyncFilter
from lipsync_lightning.synthetic.speech import Speaker, Utterance, speak
from simple_scorers import BrightnessScorer

CLIP = ClipSpec(num_frames=16, fps=25, resolution=16, sample_rate_hz=16000, mel_hz=80, num_mels=80)
FIRST, NUM_FRAMES = 20, 60


@dataclass
class FixedScorer:
    """Says the same of every clip, and notes what it was shown."""

    sync: SyncScore
    fps: int = 25
    sample_rate_hz: int = 16000
    version: str = "fixed"
    seen: list[tuple[int, int]] = field(default_factory=list)

    def __call__(self, faces: np.ndarray, waveform: np.ndarray) -> SyncScore:
        self.seen.append((len(faces), len(waveform)))
        return self.sync


@pytest.fixture(scope="module")
def said() -> Utterance:
    return speak(Speaker.from_seed(3), 4.0, 5)


def talking(said: Utterance, sound: np.ndarray) -> AlignedClip:
    """White mouths, as high as they are open, on black faces."""
    faces = np.zeros((NUM_FRAMES, 16, 16, 3), np.uint8)
    for face, opening in zip(faces, said.opening[FIRST:], strict=False):
        face[: round(16 * float(opening))] = 255
    return AlignedClip(clip=CLIP, first_frame=FIRST, person=0, faces=faces, sound=sound)


def fixed(offset: int, confidence: float = 5.0) -> FixedScorer:
    return FixedScorer(SyncScore(offset=offset, distance=7.5, confidence=confidence))


def sync_filter(scorer: SyncScorer, min_confidence: float = 3.0, max_offset: int = 6) -> SyncFilter:
    return SyncFilter(scorer=scorer, clip=CLIP, min_confidence=min_confidence, max_offset=max_offset)


def still_clip() -> AlignedClip:
    faces, sound = np.zeros((NUM_FRAMES, 16, 16, 3), np.uint8), np.zeros(640 * 70, np.float32)
    return AlignedClip(clip=CLIP, first_frame=2, person=0, faces=faces, sound=sound, scores={"earlier": 1.0})


@pytest.mark.parametrize("early", [-6, -1, 0, 2, 6])
def test_sound_that_comes_early_or_late_is_brought_into_step_to_the_sample(said: Utterance, early: int):
    sound = np.roll(said.waveform, -640 * early)
    kept = sync_filter(BrightnessScorer(), min_confidence=0)(talking(said, sound))
    assert kept.scores["sync_offset"] == early
    np.testing.assert_array_equal(kept.waveform, said.waveform[640 * FIRST : 640 * (FIRST + NUM_FRAMES)])
    assert BrightnessScorer()(kept.faces, kept.waveform).offset == 0


def test_scores_are_noted_and_the_scorer_hears_what_belongs_to_the_faces():
    scorer = fixed(2)
    kept = sync_filter(scorer)(still_clip())
    assert kept.scores == {"earlier": 1.0, "sync_confidence": 5.0, "sync_offset": 2.0, "sync_distance": 7.5}
    assert scorer.seen == [(NUM_FRAMES, 640 * NUM_FRAMES)]


@pytest.mark.parametrize(
    ("offset", "confidence", "reason"),
    [
        (0, 2.994, "sync confidence 2.99, at least 3 needed"),
        (0, float("nan"), "sync confidence nan, at least 3 needed"),
        (7, 5.0, "sound 7 frames early, at most 6 can be corrected"),
        (-8, 5.0, "sound 8 frames late, at most 6 can be corrected"),
    ],
)
def test_what_misses_a_threshold_is_rejected_with_what_was_measured_and_needed(
    offset: int, confidence: float, reason: str
):
    with pytest.raises(Rejected) as caught:
        sync_filter(fixed(offset, confidence))(still_clip())
    assert (caught.value.step, caught.value.reason) == ("sync", reason)
    assert caught.value.scores["sync_offset"] == offset


def test_a_clip_too_short_for_the_scorer_is_rejected(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(FixedScorer, "__call__", Mock(side_effect=ClipTooShort("needs 6 frames")))
    with pytest.raises(Rejected, match="needs 6 frames"):
        sync_filter(fixed(0))(still_clip())


@pytest.mark.parametrize(("fps", "sample_rate_hz"), [(30, 16000), (25, 48000)])
def test_a_scorer_of_another_frame_rate_or_sound_is_refused_before_any_work(fps: int, sample_rate_hz: int):
    told = rf"reads {fps} frames per second and sound at {sample_rate_hz} Hz, the clip has 25 and 16000"
    with pytest.raises(BadConfig, match=told):
        sync_filter(FixedScorer(SyncScore(0, 0, 0), fps=fps, sample_rate_hz=sample_rate_hz))
