"""From one raw video to its finished clips, decoding it once."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadMedia
from lipsync_lightning.media.audio import encode_flac
from lipsync_lightning.media.mux import encode_clip
from lipsync_lightning.media.people import PeopleTracker
from lipsync_lightning.media.video import read_frames
from lipsync_lightning.preparation.align import Stretch, aligned_stretches
from lipsync_lightning.preparation.filters.check import CheckedVideo
from lipsync_lightning.preparation.ledger import CLIP, KEPT, REJECTED, SOURCE, Row
from lipsync_lightning.preparation.recipe import Recipe, clip_id
from lipsync_lightning.preparation.sources import Source
from lipsync_lightning.preparation.verdict import AlignedClip, Rejected
from lipsync_lightning.shards.format import FinishedClip


@dataclass(frozen=True, kw_only=True)
class Span:
    """Frames `first_frame` to `last_frame` of a clip that an earlier run has kept."""

    person: int | None  # None where people were numbered otherwise, so that anybody may be meant
    first_frame: int
    last_frame: int

    def holds_some_of(self, stretch: Stretch) -> bool:
        """Return whether the stretch shows some of it again."""
        last_frame = stretch.first_frame + len(stretch.faces) - 1
        return (
            self.person in (None, stretch.person)
            and stretch.first_frame <= self.last_frame
            and self.first_frame <= last_frame
        )

    def is_just(self, stretch: Stretch) -> bool:
        """Return whether the stretch is that very clip."""
        stretch_is = (stretch.person, stretch.first_frame, stretch.first_frame + len(stretch.faces) - 1)
        return stretch_is == (self.person, self.first_frame, self.last_frame)


Outcome = tuple[Row, FinishedClip | None]  # a clip that was kept, or why there is none

# Of the length a file says it has, less than which means that it is not all there; some count their sound's length in.
_LEAST_SHARE, _MOST_MISSING_S = 0.9, 1.0


class Counted:
    """Frames, counted as they pass."""

    def __init__(self, frames: Iterator[np.ndarray]) -> None:
        self.count = 0
        self._frames = frames

    def __iter__(self) -> Iterator[np.ndarray]:
        for frame in self._frames:
            self.count += 1
            yield frame


@dataclass(frozen=True)
class SourceWork:
    """What is done with one source. Keeps nothing that overlaps with `kept`."""

    source: Source
    recipe: Recipe
    clip: ClipSpec
    kept: Sequence[Span] = ()

    def outcomes(self) -> Iterator[Outcome]:
        """Yield a row for each clip, with the clip if it is kept, and last of all the row of the source.

        Raises: OSError, if a file cannot be opened; BadMedia, if there are no points for the video; whatever a broken decoder raises.
        """
        checked = self.recipe.check(self.source, self.clip)
        if isinstance(checked, Rejected):
            yield self._source_row(REJECTED, checked), None
            return
        is_kept, fault, broke_off = bool(self.kept), Rejected(step="faces", reason="no face found on any frame"), None
        for judged in self._judged(checked, self.recipe.people.for_video(self.source.video)):
            if isinstance(judged, Rejected):
                fault = broke_off = judged
                continue
            row, finished = judged
            is_kept |= finished is not None
            if finished is None:
                fault = Rejected(step=str(row.step), reason=str(row.reason))
            yield judged
        yield (self._source_row(KEPT, broke_off) if is_kept else self._source_row(REJECTED, fault)), None

    def _judged(self, checked: CheckedVideo, people: PeopleTracker) -> Iterator[Outcome | Rejected]:
        """Yield what became of each stretch, and at the end what kept the video from being read to its end."""
        limits = {"longest": self.recipe.longest(self.clip), "shortest": self.recipe.shortest(self.clip)}
        frames = Counted(self._frames(checked))
        try:
            shots = self.recipe.shots(frames, float(self.clip.fps))
            for stretch in aligned_stretches(shots, people, self.clip.resolution, **limits):
                if not any(span.is_just(stretch) for span in self.kept):  # such a clip has its row already
                    yield self._finished(stretch, checked)
        except BadMedia as error:
            yield Rejected(step=self.recipe.check.name, reason=str(error))
            return
        shown_s = frames.count / self.clip.fps
        if shown_s < _LEAST_SHARE * checked.shown_s - _MOST_MISSING_S:
            reason = f"breaks off after {shown_s:.1f} s of the {checked.shown_s:.1f} s it says it has"
            yield Rejected(step=self.recipe.check.name, reason=reason)

    def _frames(self, checked: CheckedVideo) -> Iterator[np.ndarray]:
        rows, columns = checked.crop
        for frame in read_frames(
            self.source.video, fps=self.clip.fps, start_s=self.source.start_s, stop_s=self.source.stop_s
        ):
            yield frame[rows, columns]

    def _finished(self, stretch: Stretch, checked: CheckedVideo) -> Outcome:
        is_new = not any(span.holds_some_of(stretch) for span in self.kept)
        faces = np.stack(stretch.faces)
        stretch.faces.clear()  # or the frames would be there twice while the next stretch grows
        clip: AlignedClip | Rejected = AlignedClip(
            first_frame=stretch.first_frame, person=stretch.person, faces=faces, sound=checked.waveform
        )
        if not is_new:
            return self._rejected_row(
                clip, Rejected(step="segments", reason="a clip of an earlier run shows some of it")
            ), None
        for step in (self._long_enough, self.recipe.sync, self._with_all_its_sound, self.recipe.quality):
            judged = step(clip)
            if isinstance(judged, Rejected):
                return self._rejected_row(clip, judged), None
            clip = judged
        row = self._clip_row(clip)
        finished = self._encoded(clip, str(row.id))
        return replace(
            row, sha256=finished.sha256, scores=dict(clip.scores), steps=self.recipe.versions(self.clip)
        ), finished

    def _long_enough(self, clip: AlignedClip) -> AlignedClip | Rejected:
        shortest = self.recipe.shortest(self.clip)
        if clip.num_frames >= shortest:
            return clip
        return Rejected(
            step="segments", reason=f"{_where(clip)}: a face for {clip.num_frames} frames, at least {shortest} needed"
        )

    def _with_all_its_sound(self, clip: AlignedClip) -> AlignedClip | Rejected:
        """Return the clip without the frames whose sound, once it is in step, lies outside the source."""
        total = int(len(clip.sound) * self.clip.fps / self.clip.sample_rate_hz)
        begin = max(0, -(clip.first_frame + clip.sound_shift))
        end = min(clip.num_frames, total - clip.first_frame - clip.sound_shift)
        heard = replace(clip, first_frame=clip.first_frame + begin, faces=clip.faces[begin : max(begin, end)])
        shortest = self.recipe.shortest(self.clip)
        if heard.num_frames >= shortest:
            return heard
        reason = f"{_where(clip)}: a face with sound for {heard.num_frames} frames, at least {shortest} needed"
        return Rejected(step="sound", reason=reason)

    def _encoded(self, clip: AlignedClip, key: str) -> FinishedClip:
        facts = {
            "source": self.source.name,
            "start_s": self.source.start_s + clip.first_frame / self.clip.fps,
            "first_frame": clip.first_frame,
            "num_frames": clip.num_frames,
            "fps": self.clip.fps,
            "person": clip.person,
            "sound_shift": clip.sound_shift,
            **clip.scores,
        }
        members = {
            "mp4": encode_clip(clip.faces, fps=self.clip.fps),
            "flac": encode_flac(clip.waveform(self.clip), self.clip.sample_rate_hz),
            "json": json.dumps(facts, sort_keys=True).encode(),
        }
        return FinishedClip(key, clip.num_frames, members)

    def _clip_row(self, clip: AlignedClip) -> Row:
        start_s = self.source.start_s + clip.first_frame / self.clip.fps
        return Row(
            kind=CLIP,
            source=self.source.name,
            verdict=KEPT,
            id=clip_id(self.recipe.name, self.source.name, clip.first_frame, clip.person),
            start_s=start_s,
            stop_s=start_s + clip.num_frames / self.clip.fps,
            num_frames=clip.num_frames,
            person=clip.person,
        )

    def _rejected_row(self, clip: AlignedClip, fault: Rejected) -> Row:
        scores = {**clip.scores, **fault.scores}
        steps = self._until(fault.step)
        return replace(
            self._clip_row(clip), verdict=REJECTED, step=fault.step, reason=fault.reason, scores=scores, steps=steps
        )

    def _source_row(self, verdict: str, fault: Rejected | None) -> Row:
        steps = (
            self._until(fault.step) if fault is not None and verdict == REJECTED else self.recipe.versions(self.clip)
        )
        return source_row(self.source, verdict, fault, steps)

    def _until(self, step: str) -> dict[str, str]:
        """Return the versions of the steps up to one of them."""
        versions = self.recipe.versions(self.clip)
        before = dict(takewhile(lambda item: item[0] != step, versions.items()))
        return {**before, step: versions[step]}


def source_row(source: Source, verdict: str, fault: Rejected | None, steps: dict[str, str]) -> Row:
    """Return the row of a source, with its size and hash if it can be read."""
    size, digest = _size_and_hash(source)
    return Row(
        kind=SOURCE,
        source=source.name,
        verdict=verdict,
        sha256=digest,
        num_bytes=size,
        start_s=source.start_s,
        stop_s=source.stop_s,
        step=fault and fault.step,
        reason=fault and fault.reason,
        steps=steps,
    )


def _size_and_hash(source: Source) -> tuple[int | None, str | None]:
    try:
        if not source.video.is_file():
            return None, None
        with source.video.open("rb") as file:
            return source.video.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None, None


def _where(clip: AlignedClip) -> str:
    return f"frames {clip.first_frame}-{clip.first_frame + clip.num_frames - 1}"
