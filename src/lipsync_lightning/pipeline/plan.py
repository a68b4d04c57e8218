"""What is painted where: found by one reading of the whole video, before anything is painted."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import groupby
from math import ceil, inf
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import NoFace
from lipsync_lightning.media.alignment import Aligner
from lipsync_lightning.media.audio import read_audio
from lipsync_lightning.media.people import PeopleTracker
from lipsync_lightning.media.resampling import exact
from lipsync_lightning.media.video import TimedFrame
from lipsync_lightning.models.audio_encoder import AudioEncoder
from lipsync_lightning.pipeline.choice import SPEAKING, choose
from lipsync_lightning.pipeline.fitness import NOT_SEEN, Thresholds, faded, measure, reasons_of, records_of
from lipsync_lightning.pipeline.script import Line
from lipsync_lightning.pipeline.shots import Shot, find_shots
from lipsync_lightning.pipeline.sources import VideoArray, VideoFile
from lipsync_lightning.pipeline.timeline import Timeline, timeline
from lipsync_lightning.pipeline.windows import Turn
from lipsync_lightning.threads import ahead

_FRAMES_AHEAD = 4
_SAME_LENGTH_S = 0.1  # picture and sound that differ by less end together
_NO_IMAGE = np.empty(0, np.uint8)


@dataclass(frozen=True)
class Scene:
    """Frames of the result that belong together, and who speaks on them."""

    frames: range
    turns: list[Turn]


@dataclass(frozen=True)
class LeftAlone:
    """Where somebody should speak, and nothing is painted."""

    start_s: float  # of the result
    end_s: float
    reason: str


@dataclass(frozen=True)
class Plan:
    source: VideoFile | VideoArray
    timeline: Timeline
    scenes: list[Scene]
    left_alone: list[LeftAlone]
    told: list[str]  # what was converted or lost of the video, and what did not go as asked, in sentences

    @property
    def num_frames(self) -> int:
        return len(self.timeline.times_s) - 1


@dataclass(frozen=True)
class Voice:
    """What a line of the script sounds like, and when."""

    start_s: Fraction
    end_s: Fraction | float
    tokens: Callable[[Sequence[Fraction]], Tensor]  # (T, A, D) of times of the result


def plan_of(
    source: VideoFile | VideoArray,
    tracker: PeopleTracker,
    script: Sequence[Line],
    encoder: AudioEncoder,
    clip: ClipSpec,
    *,
    fitness: Thresholds | None,
    length: str | None,
    extend: str,
    speak_silence: bool,
    audio_track: int | str | None,
    seen: Callable[[], Any],
) -> Plan:
    """Return what is painted where. Args: as of a call of `LipSyncPipeline`; seen: called for every frame that is read.

    Raises: NoFace, if nobody can be given a mouth.
    """
    info, rate_hz, fitness = source.info, clip.sample_rate_hz, fitness or Thresholds()
    length = length or ("audio" if info.is_photo else "video")
    waveforms = [read_audio(line.sound, rate_hz, audio_track) for line in script]
    ends_s = [min(line.end_s, line.start_s + len(w) / rate_hz) for line, w in zip(script, waveforms, strict=True)]
    shots, frames = look_at(source, tracker, info.pixel_aspect, clip.resolution, seen)
    shown_when = timeline([frame.duration_s for frame in frames], exact(max(ends_s)), length, extend)
    asks_who_speaks = any(line.face == SPEAKING for line in script) and info.has_audio
    own_sound = source.sound(rate_hz) if asks_who_speaks else None
    choices = [choose(shots, line.face, own_sound, rate_hz) for line in script]
    voices = list(voices_of(script, waveforms, encoder, rate_hz, shown_when.times_s, speak_silence))
    shown, firsts = np.concatenate(shown_when.legs), [shot.first_frame for shot in shots]
    scenes, left_alone = [], []
    for scene in shown_when.scenes(firsts):
        number = int(np.searchsorted(firsts, shown[scene.start], side="right")) - 1
        shot, times_s = shots[number], shown_when.times_s[scene.start : scene.stop + 1]
        of_shot, turns = shown[scene.start : scene.stop] - shot.first_frame, []
        for choice, voice in zip(choices, voices, strict=True):
            heard = np.array([voice.start_s <= time_s < voice.end_s for time_s in times_s[:-1]])
            person = choice.people[number]
            track = None if person is None else shot.people[person]
            reasons = (
                np.full(len(shot.times_s), NOT_SEEN)
                if track is None
                else reasons_of(records_of(track.measured), fitness)
            )
            left_alone += _stretches(np.where(heard, reasons[of_shot], ""), times_s)
            if track is not None and heard.any():
                weights = np.minimum(
                    faded(reasons == "", fitness.fade_frames)[of_shot], faded(heard, fitness.fade_frames)
                )
                turns += turns_of(track.points[of_shot], weights, times_s, voice, info.pixel_aspect, clip.resolution)
        scenes.append(Scene(scene, turns))
    if not any(scene.turns for scene in scenes):
        why = (
            "; ".join(dict.fromkeys(each.reason for each in left_alone))
            or "the sound has ended before the video begins"
        )
        raise NoFace(
            f"{source}: nobody can be given a mouth ({why}); nothing was written: choose another face, or video"
        )
    told = [*info.told, *(choice.told for choice in choices if choice.told)]
    if abs(max(ends_s) - shown_when.times_s[-1]) > _SAME_LENGTH_S:
        told.append(f"the sound ends at {max(ends_s):.2f} s, the picture at {float(shown_when.times_s[-1]):.2f} s")
    return Plan(source.until(frames[-1].time_s + frames[-1].duration_s), shown_when, scenes, left_alone, told)


def _stretches(reasons: np.ndarray, times_s: Sequence[Fraction]) -> Iterator[LeftAlone]:
    first = 0
    for reason, group in groupby(reasons.tolist()):
        stop = first + len(list(group))
        if reason:
            yield LeftAlone(float(times_s[first]), float(times_s[stop]), reason)
        first = stop


def look_at(
    source: VideoFile | VideoArray, tracker: PeopleTracker, aspect: Fraction, resolution: int, seen: Callable[[], Any]
) -> tuple[list[Shot], list[TimedFrame]]:
    """Return the shots of a video, and its frames without their pictures; `seen` is called for each."""
    times = []
    with closing(ahead(source.forwards(), _FRAMES_AHEAD)) as frames:

        def noted() -> Iterator[TimedFrame]:
            for frame in frames:
                times.append(replace(frame, image=_NO_IMAGE))
                seen()
                yield frame

        return list(find_shots(noted(), tracker, aspect, partial(measure, resolution=resolution), resolution)), times


def voices_of(
    script: Sequence[Line],
    waveforms: Sequence[np.ndarray],
    encoder: AudioEncoder,
    rate_hz: int,
    times_s: Sequence[Fraction],
    speak_silence: bool,
) -> Iterator[Voice]:
    """Yield how each line is heard under frames that begin at `times_s`; behind its sound there is silence."""
    fps = 1 / sorted(np.diff(np.array(times_s)))[(len(times_s) - 1) // 2]  # of most frames
    for line, waveform in zip(script, waveforms, strict=True):
        start_s = exact(line.start_s)
        lasts_s = max(times_s[-1] - start_s, 1 / fps)
        padded = functional.pad(torch.from_numpy(waveform), (0, max(0, ceil(lasts_s * rate_hz) - len(waveform))))
        read = encoder.token_reader(padded, ceil(lasts_s * fps), float(fps))

        def tokens(shown_s: Sequence[Fraction], read: Any = read, start_s: Fraction = start_s) -> Tensor:
            return read([float((time_s - start_s) * fps) for time_s in shown_s])

        end_s = min(line.end_s, inf if speak_silence else line.start_s + len(waveform) / rate_hz)
        yield Voice(start_s, inf if end_s == inf else exact(end_s), tokens)


def turns_of(
    points: np.ndarray,
    weights: np.ndarray,
    times_s: Sequence[Fraction],
    voice: Voice,
    aspect: Fraction,
    resolution: int,
) -> Iterator[Turn]:
    """Yield where one person says one line in a scene, each turn without a gap.

    Args:
        points: (F, 3, 2), pixels as stored, NaN where he is not seen; aspect: a pixel's width by its height.
        weights: (F,), how much of a new mouth each frame gets; times_s: when it is shown.
    """
    square = np.array([float(aspect), 1.0])  # for the face is aligned as it looks
    there = (weights > 0) & np.isfinite(points).all(axis=(1, 2))
    edges = np.flatnonzero(np.diff(there, prepend=False, append=False)).reshape(-1, 2)
    for first, stop in edges.tolist():
        aligner = Aligner(resolution=resolution)
        matrices = np.stack([aligner.matrix(each * square) for each in points[first:stop].astype(np.float64)])
        matrices[:, :, :2] *= square
        audio = lambda frames: voice.tokens([times_s[frame] for frame in frames])  # noqa: E731
        yield Turn(range(first, stop), matrices, weights[first:stop], audio)
