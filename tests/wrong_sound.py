"""Made-up people talking, and the same clips with other sound."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.media.audio import decode_flac, encode_flac
from lipsync_lightning.shards.format import FinishedClip, find_shards, write_shard
from lipsync_lightning.shards.reader import ClipIndex
from lipsync_lightning.synthetic.corpus import write_corpus
from tiny_media import FPS, RATE_HZ
from tiny_recipe import prepared

NUM_CLIPS = 32
Sounds = list[np.ndarray]


def talking_faces(folder: Path, clip: ClipSpec) -> Path:
    """Return a data set of one clip of 50 frames of each of `NUM_CLIPS` people."""
    write_corpus(
        out=folder / "raw",
        num_people=NUM_CLIPS,
        clips_per_person=1,
        seconds=2.0,
        seed=1,
        leak=0.0,
        num_workers=1,
        size=96,
    )
    prepared(folder / "raw", folder / "shards", clip, sources_per_shard=16, max_seconds=3.0)
    return folder / "shards"


def index_of(shards: Path, clip: ClipSpec) -> ClipIndex:
    return ClipIndex(find_shards(shards, "train", clip))


def with_sounds(shards: Path, out: Path, clip: ClipSpec, change: Callable[[Sounds], Sounds]) -> Path:
    """Write the same clips with the sounds that `change` makes of theirs, and return the data set."""
    index = index_of(shards, clip)
    clips = [index.read(number) for number in range(len(index))]
    sounds = change([decode_flac(members["flac"]) for members in clips])
    finished = [
        FinishedClip(
            members["__key__"],
            json.loads(members["json"])["num_frames"],
            {"mp4": members["mp4"], "flac": encode_flac(sound, RATE_HZ), "json": members["json"]},
        )
        for members, sound in zip(clips, sounds, strict=True)
    ]
    write_shard(out / "train" / "000000.tar", finished, clip=clip)
    return out


def late(sound: np.ndarray, frames: int) -> np.ndarray:
    return np.roll(sound, frames * RATE_HZ // FPS)


def swapped(sounds: Sounds) -> Sounds:
    return sounds[1:] + sounds[:1]


def all_the_same(sounds: Sounds) -> Sounds:
    return [sounds[0]] * len(sounds)
