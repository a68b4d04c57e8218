"""From one raw video to its finished clips, decoding it once."""

from collections.abc import Iterator
from math import ceil
from pathlib import Path

import numpy as np

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadMedia
from lipsync_lightning.media.audio import encode_flac
from lipsync_lightning.media.video import encode_clip, read_frames
from lipsync_lightning.preparation.recipe import Recipe, sample_id
from lipsync_lightning.preparation.shards import FinishedClip
from lipsync_lightning.preparation.steps.align import Stretch, aligned_stretches
from lipsync_lightning.preparation.steps.check import CheckedVideo, Rejected, check


def prepare_source(name: str, recipe: Recipe, clip: ClipSpec) -> Iterator[FinishedClip | Rejected]:
    """Yield the clips of one source, and a `Rejected` for every stretch, or the whole source, that gave none."""
    path = Path(recipe.source) / name
    video = check(path, clip, recipe.min_seconds)
    if isinstance(video, Rejected):
        yield video
        return
    shortest = max(ceil(recipe.min_seconds * clip.fps), clip.num_frames)
    longest = max(int(recipe.max_seconds * clip.fps), shortest)
    num_clips = num_stretches = 0
    try:
        frames = read_frames(path, fps=clip.fps)
        for stretch in aligned_stretches(frames, recipe.faces.for_video(path), clip.resolution, longest, shortest):
            num_stretches += 1
            finished = _finish(stretch, video, sample_id(recipe.name, name, num_clips), name, clip, shortest)
            num_clips += isinstance(finished, FinishedClip)
            yield finished
    except BadMedia as error:
        yield Rejected(str(error))
        return
    if num_stretches == 0:
        yield Rejected("no face found on any frame")


def _finish(stretch: Stretch, video: CheckedVideo, clip_id: str, name: str, clip: ClipSpec, shortest: int) -> FinishedClip | Rejected:
    heard_frames = int(len(video.waveform) * clip.fps / clip.sample_rate_hz) - stretch.first_frame
    faces = stretch.faces[: max(0, heard_frames)]
    if len(faces) < shortest:
        where = f"frames {stretch.first_frame}-{stretch.first_frame + len(stretch.faces) - 1}"
        return Rejected(f"{where}: a face with sound for {len(faces)} frames, at least {shortest} needed")
    start, stop = (clip.num_samples(stretch.first_frame + n) for n in (0, len(faces)))
    waveform: np.ndarray = video.waveform[start:stop]
    facts = {"source": name, "first_frame": stretch.first_frame, "num_frames": len(faces), "fps": clip.fps}
    return FinishedClip(clip_id, encode_clip(faces, fps=clip.fps), encode_flac(waveform, clip.sample_rate_hz), facts)
