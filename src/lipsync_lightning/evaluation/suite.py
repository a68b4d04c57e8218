"""The tests that a lip-sync model sits: whose face says whose speech, and how the result is scored."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.errors import BadMedia, ClipMismatch, NoFace
from lipsync_lightning.evaluation.image import FRAMES_AT_ONCE, mouth_quality
from lipsync_lightning.evaluation.metrics import REAL
from lipsync_lightning.evaluation.mouth import mesh_opening
from lipsync_lightning.evaluation.sync import SyncScorer
from lipsync_lightning.media.alignment import Aligner, align
from lipsync_lightning.media.audio import encode_flac, read_audio
from lipsync_lightning.media.frames import to_float
from lipsync_lightning.media.masks import keep_mask
from lipsync_lightning.media.people import People
from lipsync_lightning.media.video import read_frames
from lipsync_lightning.models.weights_io import frozen
from lipsync_lightning.synthetic.opening import correlation, mouth_opening

SHUFFLED_CHUNK_SECONDS = 0.2  # about one syllable
OWN, OTHER, SHUFFLED = CONDITIONS = ("own speech", "other speech", "shuffled speech")
Row = dict[str, Any]  # of one judged video: system, condition, person, speech, and its scores

_SYNC = ("sync_confidence", "sync_distance", "sync_offset", "mouth_correlation")
_MEANS = {  # condition and score of rows -> the metric that their mean is
    **{(OTHER, score): score for score in (*_SYNC, "mouth_correlation_old", "mouth_correlation_chance")},
    **{(OWN, score): score for score in ("psnr", "ssim", "lpips", "temporal_error", "blockiness")},
    **{(OWN, score): f"{score}_own" for score in ("mouth_correlation", "sync_confidence")},
    **{(SHUFFLED, score): f"{score}_shuffled" for score in ("mouth_correlation", "sync_confidence")},
}
_MEANS_OF_REAL = {(OWN, score): score for score in _SYNC}


@dataclass(frozen=True)
class Speech:
    """Something to say."""

    sound: Path
    name: str
    opening: np.ndarray  # (T,), of the mouth of whoever said it: known of a drawn face, measured of a real one
    measure: Callable[[np.ndarray], np.ndarray]  # aligned faces (T, R, R, 3) of that person -> opening (T,)


@dataclass(frozen=True)
class TestVideo:
    """A person, and what that person is to say under each condition."""

    path: Path
    speech: dict[str, Speech]  # by condition


def test_videos(videos: Sequence[Path], sounds: Path, faces: People, clip: ClipSpec) -> list[TestVideo]:
    """Return one test for each video; each one's other speech is the next one's own.

    Shuffled speech is the other's in pieces out of order, with the track of the unshuffled one: following that must be
    impossible.

    Args: sounds: folder to write the shuffled sounds to.
    Raises: BadMedia, if there are fewer than two videos; NoFace.
    """
    if len(videos) < 2:
        raise BadMedia(f"need two videos or more to exchange speech between, found {len(videos)}; add some")
    own, tests = [], []
    for path in videos:
        facts = path.with_suffix(".json")  # of a synthetic video
        known = json.loads(facts.read_text()).get("opening") if facts.is_file() else None
        opening = mesh_opening(aligned_faces(path, path, faces, clip)) if known is None else np.array(known)
        own.append(Speech(path, path.stem, opening, mesh_opening if known is None else mouth_opening))
    sounds.mkdir(parents=True, exist_ok=True)
    for index, path in enumerate(videos):
        other = own[(index + 1) % len(videos)]
        chunk = round(SHUFFLED_CHUNK_SECONDS * clip.sample_rate_hz)
        waveform = shuffled(read_audio(other.sound, clip.sample_rate_hz), chunk, seed=index)
        sound = sounds / f"{other.name}_shuffled.flac"
        sound.write_bytes(encode_flac(waveform, clip.sample_rate_hz))
        mixed = replace(other, sound=sound, name=f"{other.name}, shuffled")
        tests.append(TestVideo(path, {OWN: own[index], OTHER: other, SHUFFLED: mixed}))
    return tests


def shuffled(waveform: np.ndarray, chunk: int, seed: int) -> np.ndarray:
    """Return the waveform's chunks of `chunk` samples in random order, what is left over at the end."""
    whole = len(waveform) // chunk * chunk
    chunks = waveform[:whole].reshape(-1, chunk)
    return np.concatenate([np.random.default_rng(seed).permutation(chunks).ravel(), waveform[whole:]])


def aligned_faces(video: Path, placed_as: Path, faces: People, clip: ClipSpec) -> np.ndarray:
    """Return the (T, R, R, 3) aligned faces of a video, placed by the points of `placed_as`, frame by frame.

    Raises: NoFace, if a frame has none.
    """
    points_of, aligner, aligned = faces.for_video(placed_as), Aligner(resolution=clip.resolution), []
    for frame, original in zip(read_frames(video, fps=clip.fps), read_frames(placed_as, fps=clip.fps), strict=False):
        points = points_of(original)
        if points is None:
            raise NoFace(f"{placed_as}: no face on frame {len(aligned)}; use videos that show one on every frame")
        aligned.append(align(frame, aligner.matrix(points), clip.resolution))
    return np.stack(aligned)


class Judge:
    """Scores the aligned faces of one video."""

    def __init__(
        self, *, scorer: SyncScorer | None, lpips_network: nn.Module, clip: ClipSpec, device: Any = "cpu"
    ) -> None:
        """Args: scorer: None measures no sync; device: of LPIPS.

        Raises: ClipMismatch, if the scorer reads another number of frames a second.
        """
        if scorer is not None and scorer.fps != clip.fps:
            raise ClipMismatch(f"the sync scorer reads {scorer.fps} fps, clips have {clip.fps}; choose another scorer")
        self.scorer = scorer
        self.lpips_network = frozen(lpips_network).to(device)
        self.device = device
        self.clip = clip

    def following(self, made: np.ndarray, said: Speech, old: Speech) -> Row:
        """Return how well the faces (T, R, R, 3) follow the speech they should say.

        `sync_*`: the scorer's word. The others are correlations of the mouth's opening: `mouth_correlation` with what
        it should say, `mouth_correlation_old` with the speech of the video it was made from, `mouth_correlation_chance`
        of these two tracks with each other.
        """
        row: Row = {}
        if self.scorer is not None:
            sync = self.scorer(made, read_audio(said.sound, self.scorer.sample_rate_hz))
            row = {f"sync_{name}": value for name, value in sync._asdict().items()}
        opening = old.measure(made)
        pairs = {"": (opening, said.opening), "_old": (opening, old.opening), "_chance": (said.opening, old.opening)}
        for name, (first, second) in pairs.items():
            both = np.stack([track[: min(len(first), len(second))] for track in (first, second)])
            if len(known := both[:, np.isfinite(both).all(axis=0)].T) > 1:
                row[f"mouth_correlation{name}"] = correlation(*known.T)
        return row

    def closeness(self, made: np.ndarray, real: np.ndarray, region: str, cell: int) -> Row:
        """Return `psnr`, `ssim`, `lpips`, `temporal_error`, `blockiness`; meaningful where both say the same.

        Args:
            region: one of `media.masks.REGIONS`, of which every pixel was generated: copied ones would flatter.
            cell: pixels for one latent, along height and along width.
        """
        real = real[: len(made)]

        def piece(faces: np.ndarray, first: int) -> Tensor:
            levels = torch.from_numpy(faces[first : first + FRAMES_AT_ONCE]).to(self.device)
            return rearrange(to_float(levels), "t h w c -> t c h w")

        pieces = ((piece(made, first), piece(real, first)) for first in range(0, len(made), FRAMES_AT_ONCE))
        mask = keep_mask(self.clip.resolution, region).to(self.device)
        quality = mouth_quality(pieces, mask, self.lpips_network)
        blocks = blockiness(made, real, region, cell)
        return quality | {"temporal_error": temporal_error(made, real, region), "blockiness": blocks}


def temporal_error(made: np.ndarray, real: np.ndarray, region: str) -> float:
    """Return by how much the change from frame to frame differs from the real one, in grey levels of a region.

    Still pictures, flicker and movement at the wrong time all differ; a constant error of colour does not.

    Args: made, real: (T, R, R, 3) uint8.
    """
    hole = keep_mask(made.shape[1], region).numpy() == 0
    changes = [np.diff(faces[:, hole].astype(np.int16), axis=0) for faces in (made, real)]
    return float(np.abs(changes[0] - changes[1]).mean())


def blockiness(made: np.ndarray, real: np.ndarray, region: str, cell: int) -> float:
    """Return gradients across the borders of cells over those inside, of a region, divided by the same of real frames.

    1 is as real; a mosaic of cells is more. Args: made, real: (T, R, R, 3) uint8; cell: its side in pixels.
    """
    hole = keep_mask(made.shape[1], region).numpy() == 0
    ratios = []
    for faces in (made, real):
        across, inside = 0.0, 0.0
        for axis in (1, 2):
            steps = np.abs(np.diff(faces.astype(np.int16), axis=axis)).mean(axis=(0, 3)).swapaxes(0, axis - 1)
            both = np.logical_and(*(np.delete(hole, end, axis - 1) for end in (0, -1))).swapaxes(0, axis - 1)
            at_border = np.arange(len(steps)) % cell == cell - 1
            across += steps[at_border][both[at_border]].mean()
            inside += steps[~at_border][both[~at_border]].mean()
        ratios.append(across / max(inside, 1e-6))
    return float(ratios[0] / ratios[1])


def figures_of(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return the metrics of each system, means over its rows; those of the real videos are with their own speech."""
    figures: dict[str, dict[str, float]] = {}
    for system in dict.fromkeys(row["system"] for row in rows):
        figures[system] = {}
        for (condition, score), name in (_MEANS_OF_REAL if system == REAL else _MEANS).items():
            where = {"system": system, "condition": condition}.items()
            values = [row[score] for row in rows if where <= row.items() and score in row]
            if values:
                figures[system][name] = float(np.mean(values))
    ceiling = figures.get(REAL, {}).get("mouth_correlation")
    for system, found in figures.items():
        if ceiling and system != REAL and "mouth_correlation" in found:
            found["mouth_correlation_share"] = found["mouth_correlation"] / ceiling
    return figures
