import numpy as np
import pytest

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.preparation.filters import AlignedClip, Rejected
from lipsync_lightning.preparation.filters.quality import QualityFilter

CLIP = ClipSpec(num_frames=3, fps=25, resolution=8, sample_rate_hz=16000, mel_hz=80, num_mels=80)


class Brightness:
    """Finds bright pictures beautiful."""

    version = "brightness"

    def __call__(self, faces: np.ndarray) -> float:
        return float(faces.mean())


def clip_of(brightness: int) -> AlignedClip:
    faces = np.full((3, 8, 8, 3), brightness, np.uint8)
    sound = np.zeros(2000, np.float32)
    return AlignedClip(clip=CLIP, first_frame=0, person=0, faces=faces, sound=sound, scores={"sync_offset": 1.0})


STEP = QualityFilter(scorer=Brightness(), min_quality=40)


@pytest.mark.parametrize("brightness", [40, 41])
def test_what_reaches_the_threshold_is_kept_with_its_score(brightness: int):
    assert STEP(clip_of(brightness)).scores == {"sync_offset": 1.0, "visual_quality": brightness}


def test_what_looks_worse_is_rejected_with_what_was_measured_and_needed():
    with pytest.raises(Rejected, match=r"visual quality 39\.0, at least 40 needed") as caught:
        STEP(clip_of(39))
    assert (caught.value.step, caught.value.scores) == ("quality", {"sync_offset": 1.0, "visual_quality": 39.0})
