"""Sync step: throw away what is not in sync, and bring the rest into step."""

from dataclasses import InitVar, dataclass, replace

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadConfig, ClipTooShort
from lipsync_lightning.evaluation.sync import SyncScorer
from lipsync_lightning.preparation.filters import AlignedClip, Rejected


@dataclass(frozen=True, kw_only=True)
class SyncFilter:
    """Rejects clips whose lips and sound do not fit, or only too far apart; shifts the sound of the others to offset 0.

    Source: LatentSync (arXiv 2412.09262), data preparation: confidence at least 3 and offset at most 6 frames, as the
        evaluation SyncNet measures them on aligned faces.
    """

    clip: InitVar[ClipSpec]  # of the data set that is prepared
    scorer: SyncScorer
    min_confidence: float  # on the scorer's own scale
    max_offset: int  # frames to either side; scorers look 15 far

    def __post_init__(self, clip: ClipSpec) -> None:
        """Raises: BadConfig, if the scorer reads another frame rate or sound."""
        if (self.scorer.fps, self.scorer.sample_rate_hz) != (clip.fps, clip.sample_rate_hz):
            reads = f"{self.scorer.fps} frames per second and sound at {self.scorer.sample_rate_hz} Hz"
            told = f"the sync scorer reads {reads}, the clip has {clip.fps} and {clip.sample_rate_hz}"
            raise BadConfig(f"{told}; choose such a clip=, or recipe.sync=null")

    def __call__(self, aligned: AlignedClip) -> AlignedClip:
        """Return the clip with `sound_shift` set and scores `sync_confidence`, `sync_distance` and `sync_offset`.

        The offset counts frames by which the sound came early.
        Raises: Rejected, with the same scores; ClipMismatch, if the scorer does not read such faces; MissingWeights.
        """
        try:
            sync = self.scorer(aligned.faces, aligned.waveform)
        except ClipTooShort as error:
            raise Rejected("sync", str(error)) from error
        scores = {**aligned.scores, **{f"sync_{name}": float(value) for name, value in sync._asdict().items()}}
        if not sync.confidence >= self.min_confidence:  # a confidence that is not a number is none
            reason = f"sync confidence {sync.confidence:.2f}, at least {self.min_confidence:g} needed"
            raise Rejected("sync", reason, scores)
        if abs(sync.offset) > self.max_offset:
            found = f"{abs(sync.offset)} frames {'early' if sync.offset > 0 else 'late'}"
            raise Rejected("sync", f"sound {found}, at most {self.max_offset} can be corrected", scores)
        # An offset of k says audio[t] = vision[t + k]: what belongs to frame t is heard k frames before it.
        return replace(aligned, scores=scores, sound_shift=aligned.sound_shift - sync.offset)
