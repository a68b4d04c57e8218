"""How well lips and sound of one clip fit, and how far apart they are, from embeddings of both."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_SHIFT = 15  # windows to either side, as in the public code of the evaluation SyncNet


class SyncScore(NamedTuple):
    """What one clip's embeddings say."""

    offset: int  # windows (video frames, at stride 1) by which the sound comes early; 0 = in sync
    distance: float  # mean distance of lips and sound at that offset; smaller is better
    confidence: float  # how far the best distance lies below the median one; larger is better


def offset_and_confidence(vision: Tensor, audio: Tensor, max_shift: int = MAX_SHIFT) -> SyncScore:
    """Return the offset at which lips and sound are closest, with its distance and confidence.

    Sound that comes k windows early, `audio[t] = vision[t + k]`, has the offset k.

    Args:
        vision, audio: (T, D) embeddings of windows with the same starts, one video frame apart.
        max_shift: offsets from -max_shift to max_shift are tried.
    Raises: ValueError, if the two do not have the same shape (T, D) with T at least 1.
    Source: SyncNet ("Out of time", Chung and Zisserman 2016), section 4, as its public code computes it: beyond its ends
        the sound is zeros, and those windows count in the mean.
    """
    if vision.shape != audio.shape or vision.ndim != 2 or len(vision) == 0:
        raise ValueError(
            f"lips and sound must be embeddings of the same windows (T, D), got {tuple(vision.shape)} and {tuple(audio.shape)}"
        )
    padded = F.pad(audio.float(), (0, 0, max_shift, max_shift))
    candidates = padded.unfold(0, 2 * max_shift + 1, 1).transpose(1, 2)  # (T, shifts, D)
    mean_distances = F.pairwise_distance(vision.float()[:, None], candidates).mean(dim=0)
    closest = int(mean_distances.argmin())
    distance = mean_distances[closest]
    confidence = torch.median(mean_distances) - distance
    return SyncScore(offset=max_shift - closest, distance=float(distance), confidence=float(confidence))
