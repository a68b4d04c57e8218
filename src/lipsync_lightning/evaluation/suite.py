"""The tests that a lip-sync model sits: whose face says whose speech, and how the result is judged."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadMedia, NoFace
from lipsync_lightning.evaluation.image import MouthQuality
from lipsync_lightning.evaluation.sync_score import sync_score
from lipsync_lightning.media.alignment import Aligner, FacePoints, align
from lipsync_lightning.media.audio import encode_flac, read_audio
from lipsync_lightning.media.masks import keep_mask
from lipsync_lightning.media.mel import log_mel
from lipsync_lightning.media.video import read_frames
from lipsync_lightning.models.syncnet import StableSyncNet
from lipsync_lightning.synthetic.opening import correlation, mouth_opening

SHUFFLED_CHUNK_SECONDS = 0.2  # about one syllable
CONDITIONS = {
    "own speech": "own",
    "other speech": "other",
    "shuffled speech": "shuffled",
}  # to the attributes of a TestVideo
Row = dict[str, Any]


@dataclass(frozen=True)
class Speech:
    """Something to say."""

    sound: Path
    name: str
    opening: np.ndarray | None  # (T,), true mouth opening of whoever said it, where it is known


@dataclass(frozen=True)
class TestVideo:
    """A person who is to say something."""

    path: Path
    own: Speech
    other: Speech  # another person's
    shuffled: Speech  # the other's in shuffled pieces, with the unshuffled track: following it must be impossible


def test_videos(videos: Sequence[Path], sounds: Path, sample_rate_hz: int) -> list[TestVideo]:
    """Return one test for each video; each one's other speech is the next one's own.

    Args: sounds: folder for the shuffled sounds, which are written here.
    Raises: BadMedia, if there are fewer than two videos.
    """
    if len(videos) < 2:
        raise BadMedia(
            f"need at least two videos to exchange speech between, found {[str(v) for v in videos]}; give a folder with more"
        )
    own = [Speech(path, path.stem, true_opening(path)) for path in videos]
    tests = []
    for index, path in enumerate(videos):
        other = own[(index + 1) % len(videos)]
        waveform = shuffled(
            read_audio(other.sound, sample_rate_hz), round(SHUFFLED_CHUNK_SECONDS * sample_rate_hz), seed=index
        )
        sound = sounds / f"{other.name}_shuffled.flac"
        sound.parent.mkdir(parents=True, exist_ok=True)
        sound.write_bytes(encode_flac(waveform, sample_rate_hz))
        tests.append(TestVideo(path, own[index], other, Speech(sound, f"{other.name}, shuffled", other.opening)))
    return tests


def true_opening(video: Path) -> np.ndarray | None:
    """Return the true mouth opening of a synthetic video, (T,), or None where no json tells it."""
    sidecar = video.with_suffix(".json")
    facts = json.loads(sidecar.read_text()) if sidecar.is_file() else {}
    return np.array(facts["opening"]) if "opening" in facts else None


def shuffled(waveform: np.ndarray, chunk: int, seed: int) -> np.ndarray:
    """Return the waveform's chunks of `chunk` samples in random order, what is left over at the end."""
    whole = len(waveform) // chunk
    order = np.random.default_rng(seed).permutation(whole)
    return np.concatenate([*(waveform[k * chunk : (k + 1) * chunk] for k in order), waveform[whole * chunk :]])


def aligned_faces(video: Path, placed_as: Path, faces: FacePoints, clip: ClipSpec) -> np.ndarray:
    """Return the (T, R, R, 3) aligned faces of a video, placed by the points of `placed_as`, frame by frame.

    Raises: NoFace, if a frame has none.
    """
    points_of, aligner, aligned = faces.for_video(placed_as), Aligner(resolution=clip.resolution), []
    for frame, original in zip(read_frames(video, fps=clip.fps), read_frames(placed_as, fps=clip.fps), strict=False):
        points = points_of(original)
        if points is None:
            raise NoFace(f"{placed_as}: no face on frame {len(aligned)}; judge videos that always show one")
        aligned.append(align(frame, aligner.matrix(points), clip.resolution))
    return np.stack(aligned)


class Judge:
    """Scores the faces of one video."""

    def __init__(
        self, *, syncnet: StableSyncNet, lpips_network: torch.nn.Module, faces: FacePoints, clip: ClipSpec
    ) -> None:
        self.syncnet = syncnet
        self.quality = MouthQuality(lpips_network=lpips_network)
        self.faces = faces
        self.clip = clip

    def aligned(self, video: Path, placed_as: Path) -> np.ndarray:
        """Return the aligned faces of a video: see `aligned_faces`."""
        return aligned_faces(video, placed_as, self.faces, self.clip)

    def following(self, made: np.ndarray, said: Speech, old: Speech) -> Row:
        """Return how well the faces (T, R, R, 3) follow the speech they should say.

        `sync_*` and `av_offset`: SyncNet's word. Where true tracks are known, correlations of the mouth's opening:
        `mouth_correlation` with what it should say, `mouth_correlation_old` with the speech of the video it was made from,
        `mouth_correlation_chance` of these two tracks with each other, which a perfect mouth would have with the old one.
        """
        row = self._sync(made, said)
        opening = mouth_opening(made)
        if said.opening is not None:
            row["mouth_correlation"] = _correlation_in_common(opening, said.opening)
        if old.opening is not None:
            row["mouth_correlation_old"] = _correlation_in_common(opening, old.opening)
        if said.opening is not None and old.opening is not None:
            row["mouth_correlation_chance"] = _correlation_in_common(said.opening, old.opening)
        return row

    def closeness(self, made: np.ndarray, real: np.ndarray, mask: str) -> Row:
        """Return `psnr`, `ssim`, `lpips` of a region against the real faces; meaningful where both say the same.

        Args: mask: one of `media.masks.REGIONS`, of which every pixel was generated: copied ones would flatter.
        """
        self.quality.reset()
        self.quality.update(_frames(made), _frames(real[: len(made)]), keep_mask(self.clip.resolution, mask))
        return {name: float(value) for name, value in self.quality.compute().items()}

    def _sync(self, made: np.ndarray, said: Speech) -> Row:
        waveform = torch.from_numpy(read_audio(said.sound, self.clip.sample_rate_hz))
        mel = log_mel(
            waveform, sample_rate_hz=self.clip.sample_rate_hz, mel_hz=self.clip.mel_hz, num_mels=self.clip.num_mels
        )
        sync = sync_score(self.syncnet, _frames(made), mel, self.clip)
        return {"sync_confidence": sync.confidence, "sync_distance": sync.distance, "av_offset": sync.offset}


def mean_of(rows: Sequence[Row], key: str, **where: str) -> float | None:
    """Return the mean of `key` over the rows that have it and match `where`, or None if there are none."""
    values = [row[key] for row in rows if key in row and all(row[name] == value for name, value in where.items())]
    return float(np.mean(values)) if values else None


def _correlation_in_common(first: np.ndarray, second: np.ndarray) -> float:
    length = min(len(first), len(second))
    return correlation(first[:length], second[:length])


def _frames(faces: np.ndarray) -> Tensor:
    return rearrange(torch.from_numpy(faces), "t h w c -> t c h w").float() / 127.5 - 1
