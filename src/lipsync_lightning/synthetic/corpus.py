"""Writes a folder of made-up people talking, as ordinary video files with what is true about them beside each."""

import json
import multiprocessing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lipsync_lightning.errors import WouldOverwrite
from lipsync_lightning.files import write_atomically
from lipsync_lightning.media.audio import encode_flac
from lipsync_lightning.media.mux import video_writer
from lipsync_lightning.synthetic.face import alignment_points, draw_face
from lipsync_lightning.synthetic.identity import Identity
from lipsync_lightning.synthetic.motion import blinks, head_motion
from lipsync_lightning.synthetic.speech import Speaker, Utterance, speak

SAMPLE_RATE_HZ = 16000
_FPS = 25

# Independent streams of random numbers; never 0, which a seed is padded with.
_LOOKS, _VOICE, _WORDS, _MOTION, _BLINKS, _OFFSET, _SECOND_VOICE = range(1, 8)


@dataclass(frozen=True, kw_only=True)
class ClipPlan:
    """All that decides one clip. Clips of one person share looks and voice, not words."""

    seed: int
    person: int = 0
    clip: int = 0
    seconds: float
    leak: float
    fps: int
    size: int
    max_offset_frames: int = 0
    second_voice: float = 0.0

    @property
    def sound_early_by(self) -> int:
        """By how many frames the sound comes before the lips that speak it: drawn, `max_offset_frames` at most."""
        draw = np.random.default_rng(self.stream(_OFFSET))
        return int(draw.integers(-self.max_offset_frames, self.max_offset_frames + 1))

    @property
    def name(self) -> str:
        return f"person_{self.person:03d}_clip_{self.clip}"

    def stream(self, purpose: int) -> list[int]:
        return [self.seed, self.person, 0 if purpose in (_LOOKS, _VOICE) else self.clip, purpose]


@dataclass(frozen=True, kw_only=True)
class TalkingClip:
    """One clip as drawn and spoken, before any encoder."""

    frames: NDArray[np.uint8]  # (T, size, size, 3), RGB
    utterance: Utterance
    points: NDArray[np.float64]  # (T, 3, 2): left brow, right brow, nose, as x, y in pixels
    identity: Identity
    speaker: Speaker


def make_clip(plan: ClipPlan) -> TalkingClip:
    """Return the clip of a plan; the same plan gives the same pixels and samples."""
    identity = Identity.from_seed(plan.stream(_LOOKS))
    speaker = Speaker.from_seed(plan.stream(_VOICE))
    utterance = speak(speaker, plan.seconds, plan.stream(_WORDS), plan.fps, SAMPLE_RATE_HZ)
    if plan.second_voice:
        other = plan.stream(_SECOND_VOICE)
        behind = speak(Speaker.from_seed(other), plan.seconds, other, plan.fps, SAMPLE_RATE_HZ).waveform
        utterance = replace(
            utterance, waveform=(utterance.waveform + plan.second_voice * behind) / (1 + plan.second_voice)
        )
    num_frames = len(utterance.opening)
    poses = head_motion(num_frames, plan.fps, plan.stream(_MOTION))
    lids = blinks(num_frames, plan.fps, plan.stream(_BLINKS))
    draw = partial(draw_face, identity=identity, leak=plan.leak, size=plan.size)
    tracks = zip(poses, utterance.opening.tolist(), utterance.width.tolist(), lids.tolist(), strict=True)
    frames = [draw(pose=pose, opening=opening, width=width, blink=blink) for pose, opening, width, blink in tracks]
    points = np.stack([alignment_points(identity, pose, plan.size) for pose in poses])
    return TalkingClip(frames=np.stack(frames), utterance=utterance, points=points, identity=identity, speaker=speaker)


def write_corpus(
    *,
    out: Path,
    people: range,
    clips_per_person: int,
    seconds: float,
    seed: int,
    leak: float,
    num_workers: int = 2,
    size: int = 208,
    max_offset_frames: int = 0,
    second_voice: float = 0.0,
) -> list[Path]:
    """Return the paths of `clips_per_person` videos with sound of each person, each with a JSON file of the same name.

    The JSON holds `opening` and `width` (T each), `points` (T, 3, 2: left brow, right brow, nose; x, y in pixels), the
    plan, the looks and the voice. A clip that is there is left as it is: an interrupted call is finished by repeating.

    Args:
        people: their numbers, of which each with the seed decides a person.
        leak: how much of the mouth shows outside the region to be generated, see `draw_face`.
        num_workers: processes that draw and encode; 1 = this one alone.
        size: height and width in pixels, even.
        max_offset_frames: the sound of each clip comes early or late by up to so many frames, to study what that does.
        second_voice: loudness of another voice behind each speaker's, as a share of the speaker's.
    Raises: WouldOverwrite, if a clip of the same name was made with other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    every_clip = ClipPlan(
        seed=seed,
        seconds=seconds,
        leak=leak,
        fps=_FPS,
        size=size,
        max_offset_frames=max_offset_frames,
        second_voice=second_voice,
    )
    plans = [replace(every_clip, person=person, clip=clip) for person in people for clip in range(clips_per_person)]
    missing = [plan for plan in plans if not _is_whole(out, plan)]
    bar = partial(tqdm, total=len(missing), desc="talking faces", disable=not missing)
    write = partial(_write_clip, out)
    if min(num_workers, len(missing)) <= 1:
        list(bar(map(write, missing)))
    else:
        with multiprocessing.get_context("spawn").Pool(num_workers, cv2.setNumThreads, (1,)) as pool:
            list(bar(pool.imap_unordered(write, missing)))
    return [out / f"{plan.name}.mp4" for plan in plans]


def _is_whole(out: Path, plan: ClipPlan) -> bool:
    """Return whether the clip is there. The video is renamed into place last, so where it is, its JSON is too.

    Raises: WouldOverwrite, if it is there but was made by another plan.
    """
    video, facts = out / f"{plan.name}.mp4", out / f"{plan.name}.json"
    if not (video.exists() and facts.exists()):
        return False
    stored = json.loads(facts.read_text())
    planned = asdict(plan).items()
    differing = [f"{key} {stored.get(key)} instead of {value}" for key, value in planned if stored.get(key, 0) != value]
    if differing:
        raise WouldOverwrite(f"{video} was made with {', '.join(differing)}; choose another folder")
    return True


def _write_clip(out: Path, plan: ClipPlan) -> None:
    clip = make_clip(plan)
    facts = {
        **asdict(plan),
        "sound_early_by": plan.sound_early_by,
        "opening": np.round(clip.utterance.opening, 4).astype(float).tolist(),
        "width": np.round(clip.utterance.width, 4).astype(float).tolist(),
        "points": np.round(clip.points, 3).tolist(),
        "identity": asdict(clip.identity),
        "speaker": asdict(clip.speaker),
    }
    write_atomically(out / f"{plan.name}.json", json.dumps(facts).encode())
    # The sound is shifted by whole frames, and is silent where nothing is known.
    shift = round(plan.sound_early_by * SAMPLE_RATE_HZ / plan.fps)
    sound = np.pad(clip.utterance.waveform, abs(shift))[abs(shift) + shift :][: len(clip.utterance.waveform)]
    video = out / f"{plan.name}.mp4"
    heard = write_atomically(video.with_suffix(".flac"), encode_flac(sound, SAMPLE_RATE_HZ))
    side = plan.size
    with video_writer(
        video, width=side, height=side, fps=plan.fps, sound=heard, keep_sound=True, num_threads=1
    ) as write:
        for frame in clip.frames:
            write(frame)
    heard.unlink()
