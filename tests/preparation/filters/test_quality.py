from dataclasses import dataclass

import numpy as np
import pytest

from lipsync_lightning.preparation.filters.quality import NoQualityFilter, QualityFilter
from lipsync_lightning.preparation.verdict import AlignedClip, Rejected


@dataclass
class BrightnessJudge:
    """Finds bright pictures beautiful."""

    version: str = "brightness"

    def __call__(self, faces: np.ndarray) -> float:
        return float(faces.mean())


def clip_of(brightness: int) -> AlignedClip:
    faces = np.full((3, 8, 8, 3), brightness, np.uint8)
    return AlignedClip(
        first_frame=0, person=0, faces=faces, sound=np.zeros(2000, np.float32), scores={"sync_offset": 1.0}
    )


def step() -> QualityFilter:
    return QualityFilter(judge=BrightnessJudge(), min_quality=40)


@pytest.mark.parametrize("brightness", [40, 41])
def test_what_reaches_the_threshold_is_kept_with_its_score(brightness: int):
    kept = step()(clip_of(brightness))
    assert isinstance(kept, AlignedClip)
    assert kept.scores == {"sync_offset": 1.0, "visual_quality": brightness}


def test_what_looks_worse_is_rejected_with_what_was_measured_and_needed():
    rejected = step()(clip_of(39))
    scores = {"sync_offset": 1.0, "visual_quality": 39.0}
    assert rejected == Rejected(step="quality", reason="visual quality 39.0, at least 40 needed", scores=scores)


def test_a_quality_that_is_no_number_is_not_enough():
    assert isinstance(QualityFilter(judge=lambda faces: float("nan"), min_quality=40)(clip_of(99)), Rejected)  # pyright: ignore


def test_the_version_tells_settings_and_judge():
    assert step().version == "1 min_quality=40 judge=brightness"


def test_a_skipped_judge_leaves_the_clip_and_says_so():
    clip = clip_of(0)
    assert NoQualityFilter()(clip) is clip
    assert (NoQualityFilter.name, NoQualityFilter.version) == (QualityFilter.name, "skipped")
