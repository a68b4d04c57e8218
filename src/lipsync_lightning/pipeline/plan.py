"""What is painted where: found by one reading of the whole video, before anything is painted."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache, partial
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
_SHORTEST_S = Fraction(1, 500)  # of a last frame, beyond the clocks' rounding
_VOICES_IN_MEMORY = 4


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

    def digest(self) -> str:
        """Return a hash of what is painted where, and of frames in memory."""
        turns = (turn for scene in self.scenes for turn in scene.turns)
        parts = [each for turn in turns for each in (turn.matrices, turn.weights)]
        parts += [np.asarray(leg) for leg in self.timeline.legs]
        parts += [self.source.frames] if isinstance(self.source, VideoArray) else []
        digest = hashlib.sha256()
        for part in parts:
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Voice:
    """What a line of the script sounds like, and when."""

    line: Line
    waveform: np.ndarray  # (N,)
    rate_hz: int

    @property
    def start_s(self) -> Fraction:
        return exact(self.line.start_s)

    @property
    def end_s(self) -> Fraction:
        return exact(min(self.line.end_s, self.line.start_s + len(self.waveform) / self.rate_hz))


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
    voices = [Voice(line, read_audio(line.sound, rate_hz, audio_track), rate_hz) for line in script]
    sound_s = max(voice.end_s for voice in voices)
    shots, frames = look_at(source, tracker, seen)
    shown_when = timeline([frame.duration_s for frame in frames], sound_s, length, extend)
    asks_who_speaks = any(line.face == SPEAKING for line in script) and info.has_audio
    own_sound = source.sound(rate_hz) if asks_who_speaks else None
    choices = [choose(shots, line.face, own_sound, rate_hz) for line in script]
    ends_s = [inf if speak_silence and voice.line.end_s == inf else voice.end_s for voice in voices]
    tokens = tokens_of(voices, ends_s, encoder, shown_when.times_s)
    shown, firsts = np.concatenate(shown_when.legs), [shot.first_frame for shot in shots]
    scenes, left_alone = [], list[LeftAlone]()
    for scene in shown_when.scenes(firsts):
        number = int(np.searchsorted(firsts, shown[scene.start], side="right")) - 1
        shot, times_s = shots[number], shown_when.times_s[scene.start : scene.stop + 1]
        of_shot, turns = shown[scene.start : scene.stop] - shot.first_frame, []
        people = [choice.people[number] for choice in choices]
        heard = [
            np.array([voice.start_s <= time_s < end_s for time_s in times_s[:-1]])
            for voice, end_s in zip(voices, ends_s, strict=True)
        ]
        for line in np.flatnonzero([each.any() for each in heard]).tolist():
            person = people[line]
            if person is None:
                left_alone += _stretches(np.where(heard[line], NOT_SEEN, ""), times_s)
                continue
            track = shot.people[person]
            reasons = reasons_of(records_of(track.side, track.measured), fitness)
            left_alone += _stretches(np.where(heard[line], reasons[of_shot], ""), times_s)
            # One line of a person goes over into his next one.
            speaks = np.any([each for each, whose in zip(heard, people, strict=True) if whose == person], axis=0)
            weights = [faded(reasons == "", fitness.fade_frames)[of_shot], faded(speaks, fitness.fade_frames)]
            weights = np.min(weights, axis=0) * heard[line]
            audio = partial(tokens, line, times_s)
            turns += turns_of(track.points[of_shot], weights, audio, info.pixel_aspect, clip.resolution)
        scenes.append(Scene(scene, turns))
    if not any(scene.turns for scene in scenes):
        why = "; ".join(dict.fromkeys(each.reason for each in left_alone)) or "there is no sound while it is shown"
        told = f"{source}: nobody can be given a mouth ({why}); nothing was written"
        raise NoFace(f"{told}: choose another face, part or sound_offset")
    told = [*info.told, *dict.fromkeys(choice.told for choice in choices if choice.told)]
    if abs(sound_s - shown_when.times_s[-1]) > _SAME_LENGTH_S:
        told.append(f"the sound ends at {float(sound_s):.2f} s, the picture at {float(shown_when.times_s[-1]):.2f} s")
    end_s = frames[-1].time_s + max(frames[-1].duration_s, _SHORTEST_S)
    return Plan(source.until(end_s), shown_when, scenes, _joined(left_alone), told)


def _stretches(reasons: np.ndarray, times_s: Sequence[Fraction]) -> Iterator[LeftAlone]:
    first = 0
    for reason, group in groupby(reasons.tolist()):
        stop = first + len(list(group))
        if reason:
            yield LeftAlone(float(times_s[first]), float(times_s[stop]), reason)
        first = stop


def _joined(stretches: Sequence[LeftAlone]) -> list[LeftAlone]:
    """Return the stretches, those that follow one another for the same reason as one."""
    joined: list[LeftAlone] = []
    for each in stretches:
        if joined and (joined[-1].end_s, joined[-1].reason) == (each.start_s, each.reason):
            each = replace(each, start_s=joined.pop().start_s)
        joined.append(each)
    return joined


def look_at(
    source: VideoFile | VideoArray, tracker: PeopleTracker, seen: Callable[[], Any]
) -> tuple[list[Shot], list[TimedFrame]]:
    """Return the shots of a video, and its frames without their pictures; `seen` is called for each."""
    times = []
    with closing(ahead(source.forwards(), _FRAMES_AHEAD)) as frames:

        def noted() -> Iterator[TimedFrame]:
            for frame in frames:
                times.append(replace(frame, image=_NO_IMAGE))
                seen()
                yield frame

        shots = list(find_shots(noted(), tracker, source.info.pixel_aspect, measure))
    if isinstance(source, VideoFile) and source.stop_s is not None:
        left_s = exact(source.stop_s) - times[-1].time_s
        times[-1] = replace(times[-1], duration_s=min(times[-1].duration_s, left_s))
    return shots, times


def tokens_of(
    voices: Sequence[Voice], ends_s: Sequence[Fraction | float], encoder: AudioEncoder, times_s: Sequence[Fraction]
) -> Callable[[int, Sequence[Fraction], Sequence[int]], Tensor]:
    """Return what gives the tokens (T, A, D) of a voice's number, of times, and of which frames of these.

    Args:
        ends_s: until when each is heard; behind its sound there is silence.
        times_s: of the result's frames, and its end.
    """
    fps = 1 / sorted(np.diff(np.array(times_s)))[(len(times_s) - 1) // 2]  # of most frames

    @lru_cache(_VOICES_IN_MEMORY)
    def reader(number: int) -> Callable[[Sequence[float]], Tensor]:
        voice = voices[number]
        lasts_s = max(min(times_s[-1], ends_s[number]) - voice.start_s, 1 / fps)
        missing = max(0, ceil(lasts_s * voice.rate_hz) - len(voice.waveform))
        padded = functional.pad(torch.from_numpy(voice.waveform), (0, missing))
        return encoder.token_reader(padded, ceil(lasts_s * fps), float(fps))

    def tokens(number: int, of_scene_s: Sequence[Fraction], frames: Sequence[int]) -> Tensor:
        start_s = voices[number].start_s
        return reader(number)([float((of_scene_s[frame] - start_s) * fps) for frame in frames])

    return tokens


def turns_of(
    points: np.ndarray,
    weights: np.ndarray,
    audio: Callable[[Sequence[int]], Tensor],
    aspect: Fraction,
    resolution: int,
) -> Iterator[Turn]:
    """Yield where one person says one line in a scene, each turn without a gap.

    Args:
        points: (F, 3, 2), pixels as stored, NaN where he is not seen; aspect: a pixel's width by its height.
        weights: (F,), how much of a new mouth each frame gets; where he is not seen, he is between where he was.
        audio: tokens (T, A, D) of frames of the scene.
    """
    square = np.array([float(aspect), 1.0])  # for the face is aligned as it looks
    seen = np.isfinite(points).all(axis=(1, 2))
    edges = np.flatnonzero(np.diff((weights > 0) & seen.any(), prepend=False, append=False)).reshape(-1, 2)
    places = np.flatnonzero(seen)
    for first, stop in edges.tolist():
        every = np.arange(first, stop)
        flat = [np.interp(every, places, points[seen].reshape(-1, 6)[:, axis].astype(np.float64)) for axis in range(6)]
        aligner = Aligner(resolution=resolution)
        matrices = np.stack([aligner.matrix(each * square) for each in np.stack(flat, axis=1).reshape(-1, 3, 2)])
        matrices[:, :, :2] *= square
        yield Turn(range(first, stop), matrices, weights[first:stop], audio)
