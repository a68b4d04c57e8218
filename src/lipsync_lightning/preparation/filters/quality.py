"""Fifth step: throw away what looks bad."""

from lipsync_lightning.evaluation.quality import QualityScorer
from lipsync_lightning.preparation.verdict import AlignedClip, Rejected

_NAME = "quality"


class QualityFilter:
    """Rejects clips that look worse than `min_quality`.

    Source: LatentSync (arXiv 2412.09262), data preparation: at least 40, of HyperIQA.
    """

    name = _NAME

    def __init__(self, *, judge: QualityScorer, min_quality: float) -> None:
        """Args: min_quality: on the judge's own scale."""
        self.judge = judge
        self.min_quality = min_quality

    @property
    def version(self) -> str:
        return f"1 min_quality={self.min_quality:g} judge={self.judge.version}"

    def __call__(self, clip: AlignedClip) -> AlignedClip | Rejected:
        """Return the clip with score `visual_quality`, or why it is not kept, with the same score.

        Raises: BadConfig, if the judge cannot read faces of this size; MissingWeights, WrongWeights, at its first use.
        """
        quality = self.judge(clip.faces)
        scored = clip.scored(visual_quality=quality)
        if not quality >= self.min_quality:  # a quality that is not a number is none
            reason = f"visual quality {quality:.1f}, at least {self.min_quality:g} needed"
            return Rejected(step=self.name, reason=reason, scores=scored.scores)
        return scored


class NoQualityFilter:
    """Keeps every clip, unmeasured."""

    name = _NAME
    version = "skipped"

    def __call__(self, clip: AlignedClip) -> AlignedClip:
        return clip
