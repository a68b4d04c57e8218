"""Fourth step: throw away what is not in sync, and bring the rest into step."""

from dataclasses import replace

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadConfig, ClipTooShort
from lipsync_lightning.evaluation.offset import MAX_SHIFT, SyncScore
from lipsync_lightning.evaluation.sync import SyncScorer
from lipsync_lightning.preparation.verdict import AlignedClip, Rejected

_NAME = "sync"


class SyncFilter:
    """Rejects clips whose lips and sound do not fit, or fit only too far apart; shifts the sound of the others to offset 0.

    Source: LatentSync (arXiv 2412.09262), data preparation: confidence at least 3 and offset at most 6 frames, as the evaluation SyncNet
        measures them on aligned faces.
    """

    name = _NAME

    def __init__(self, *, judge: SyncScorer, clip: ClipSpec, min_confidence: float, max_offset: int) -> None:
        """Args:
        clip: of the data set that is prepared.
        min_confidence: on the judge's own scale.
        max_offset: frames to either side.
        Raises: BadConfig, if the judge reads another frame rate or sound, or cannot see as far as `max_offset`.
        """
        if (judge.fps, judge.sample_rate_hz) != (clip.fps, clip.sample_rate_hz):
            raise BadConfig(
                f"the judge of sync reads {judge.fps} frames per second and sound at {judge.sample_rate_hz} Hz, the clip has "
                f"{clip.fps} and {clip.sample_rate_hz}; prepare with a clip of the former, or leave the judge out (sync_filter=none)"
            )
        if not 0 <= max_offset <= MAX_SHIFT:
            raise BadConfig(
                f"max_offset is {max_offset} frames, offsets are searched from 0 to {MAX_SHIFT}; choose one of these"
            )
        self.judge = judge
        self.clip = clip
        self.min_confidence = min_confidence
        self.max_offset = max_offset

    @property
    def version(self) -> str:
        return f"1 min_confidence={self.min_confidence:g} max_offset={self.max_offset} judge={self.judge.version}"

    def __call__(self, clip: AlignedClip) -> AlignedClip | Rejected:
        """Return the clip with `sound_shift` set and scores `sync_confidence`, `sync_offset` (frames by which the sound came early) and
        `sync_distance`; or why it is not kept, with the same scores.

        Raises: ClipMismatch, if the faces are not what the judge reads; MissingWeights, WrongWeights, at its first use.
        """
        try:
            sync = self.judge(clip.faces, clip.waveform(self.clip))
        except ClipTooShort as error:
            return Rejected(step=self.name, reason=str(error))
        scored = clip.scored(
            sync_confidence=sync.confidence, sync_offset=float(sync.offset), sync_distance=sync.distance
        )
        fault = self._fault(sync)
        if fault:
            return Rejected(step=self.name, reason=fault, scores=scored.scores)
        # An offset of k says audio[t] = vision[t + k]: what belongs to frame t is heard k frames before it.
        return replace(scored, sound_shift=clip.sound_shift - sync.offset)

    def _fault(self, sync: SyncScore) -> str | None:
        if not sync.confidence >= self.min_confidence:  # a confidence that is not a number is none
            return f"sync confidence {sync.confidence:.2f}, at least {self.min_confidence:g} needed"
        if abs(sync.offset) > self.max_offset:
            direction = "early" if sync.offset > 0 else "late"
            return f"sound {self._time(abs(sync.offset))} {direction}, at most {self._time(self.max_offset)} can be corrected"
        return None

    def _time(self, num_frames: int) -> str:
        return f"{num_frames} frames ({1000 * num_frames / self.clip.fps:.0f} ms)"


class NoSyncFilter:
    """Keeps every clip as it is, unmeasured."""

    name = _NAME
    version = "skipped"

    def __call__(self, clip: AlignedClip) -> AlignedClip:
        return clip
