"""From one raw video to its encoded clips and their rows of the ledger, decoding it once.

check → rate → shots → faces → segments → sync → sound → quality → encoded clip
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadMedia
from lipsync_lightning.media.audio import encode_flac
from lipsync_lightning.media.clips import encode_clip
from lipsync_lightning.media.video import read_frames
from lipsync_lightning.preparation.filters import AlignedClip, Rejected
from lipsync_lightning.preparation.ledger import CLIP, KEPT, REJECTED, Row
from lipsync_lightning.preparation.recipe import Recipe, clip_id
from lipsync_lightning.preparation.segments import aligned_stretches
from lipsync_lightning.preparation.sources import Source
from lipsync_lightning.shards.format import FinishedClip

Outcome = tuple[Row, FinishedClip | None]  # a row, and the clip it is about, if that is kept
Verdict = tuple[str, str | None, str | None]  # of a source: verdict, step and reason, as in `ledger.Row`

# A file that shows less than this share of the length it states is not all there; some count their sound's length in.
_LEAST_SHARE, _MOST_MISSING_S = 0.9, 1.0


def clips_of_source(source: Source, recipe: Recipe, clip: ClipSpec) -> tuple[list[Outcome], Verdict]:
    """Return what becomes of each stretch with a face, and of the source.

    Raises: OSError, if a file cannot be opened; BadMedia, if the video has no points; whatever a decoder raises.
    """
    try:
        checked = recipe.check(source, clip)
    except Rejected as fault:
        return [], (REJECTED, fault.step, fault.reason)
    tracker = recipe.people.for_video(source.video, round(source.start_s * clip.fps))
    num_frames = 0

    def frames() -> Iterator[np.ndarray]:
        nonlocal num_frames
        for frame in read_frames(source.video, fps=clip.fps, start_s=source.start_s, stop_s=source.stop_s):
            num_frames += 1
            yield frame[checked.crop]

    shots = recipe.shots(frames(), clip.fps) if recipe.shots else ((f, i == 0) for i, f in enumerate(frames()))
    limits = {"longest": recipe.longest(clip), "shortest": recipe.shortest(clip)}
    outcomes: list[Outcome] = []
    broken: str | None = None
    try:
        for stretch in aligned_stretches(shots, tracker, clip.resolution, **limits):
            place: Any = {"first_frame": stretch.first_frame, "person": stretch.person}
            faces = np.stack(stretch.faces)
            stretch.faces.clear()  # or the frames would be there twice while the next stretch grows
            aligned = AlignedClip(clip=clip, **place, faces=faces, sound=checked.waveform)
            outcomes.append(_filtered(aligned, source, recipe))
    except BadMedia as error:
        broken = str(error)
    shown_s = num_frames / clip.fps
    if not broken and shown_s < _LEAST_SHARE * checked.duration_s - _MOST_MISSING_S:
        broken = f"breaks off after {shown_s:.1f} s of the {checked.duration_s:.1f} s it says it has"
    verdict = KEPT if any(finished for _, finished in outcomes) else REJECTED
    if broken:
        return outcomes, (verdict, "check", broken)
    if not outcomes:
        return outcomes, (verdict, "faces", "no face found on any frame")
    last = outcomes[-1][0]
    return outcomes, (KEPT, None, None) if verdict == KEPT else (REJECTED, last.step, last.reason)


def _filtered(aligned: AlignedClip, source: Source, recipe: Recipe) -> Outcome:
    """Return the row of one clip, and the clip itself, encoded, unless a filter rejects it."""
    shortest, fault = recipe.shortest(aligned.clip), None
    try:
        aligned = aligned.require_frames(shortest, "segments", "a face")
        if recipe.sync:
            aligned = recipe.sync(aligned)
        aligned = aligned.with_all_its_sound().require_frames(shortest, "sound", "a face with sound")
        if recipe.quality:
            aligned = recipe.quality(aligned)
    except Rejected as rejected:
        fault = rejected
    clip = aligned.clip
    start_s = source.start_s + aligned.first_frame / clip.fps
    row = Row(
        kind=CLIP,
        source=source.name,
        verdict=KEPT,
        id=clip_id(recipe.name, source.name, aligned.first_frame, aligned.person),
        start_s=start_s,
        stop_s=start_s + aligned.num_frames / clip.fps,
        num_frames=aligned.num_frames,
        person=aligned.person,
        scores=dict(aligned.scores),
    )
    if fault:
        scores = {**row.scores, **fault.scores}
        return replace(row, verdict=REJECTED, step=fault.step, reason=fault.reason, scores=scores), None
    origin = {"source": source.name, "start_s": start_s, "first_frame": aligned.first_frame, "person": aligned.person}
    facts = {"num_frames": aligned.num_frames, "fps": clip.fps, "sound_shift": aligned.sound_shift, **aligned.scores}
    members = {
        "mp4": encode_clip(aligned.faces, fps=clip.fps),
        "flac": encode_flac(aligned.waveform, clip.sample_rate_hz),
        "json": json.dumps(origin | facts, sort_keys=True).encode(),
    }
    finished = FinishedClip(str(row.id), aligned.num_frames, members)
    return replace(row, sha256=finished.sha256), finished
