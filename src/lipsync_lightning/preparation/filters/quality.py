"""Last step: throw away what looks bad."""

from dataclasses import dataclass, replace

from lipsync_lightning.evaluation.quality import QualityScorer
from lipsync_lightning.preparation.filters import AlignedClip, Rejected


@dataclass(frozen=True, kw_only=True)
class QualityFilter:
    """Rejects clips that look worse than `min_quality`.

    Source: LatentSync (arXiv 2412.09262), data preparation: at least 40, of HyperIQA.
    """

    scorer: QualityScorer
    min_quality: float  # on the scorer's own scale

    def __call__(self, aligned: AlignedClip) -> AlignedClip:
        """Return the clip with score `visual_quality`.

        Raises: Rejected, with the same score; BadConfig, if the scorer cannot read faces of this size; MissingWeights.
        """
        quality = self.scorer(aligned.faces)
        scores = {**aligned.scores, "visual_quality": quality}
        if not quality >= self.min_quality:  # a quality that is not a number is none
            raise Rejected("quality", f"visual quality {quality:.1f}, at least {self.min_quality:g} needed", scores)
        return replace(aligned, scores=scores)
