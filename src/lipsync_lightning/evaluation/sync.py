"""How well lips and sound fit: the one definition, for the released evaluation SyncNet and for our own."""

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_auroc

from lipsync_lightning.clip import ClipSpec, WindowBatch, lower_half
from lipsync_lightning.errors import ClipMismatch, ClipTooShort
from lipsync_lightning.losses.similarity import matching_and_foreign
from lipsync_lightning.media.frames import to_float
from lipsync_lightning.media.mel import log_mel, mel_window
from lipsync_lightning.media.mfcc import SAMPLE_RATE_HZ, mfcc, mfcc_window
from lipsync_lightning.models.judge_syncnet import LIPS_SHAPE, JudgeSyncNet
from lipsync_lightning.models.lazy_network import LazyNetwork, judging, version_by_content
from lipsync_lightning.models.released import judge_syncnet
from lipsync_lightning.models.syncnet import StableSyncNet
from lipsync_lightning.models.weights_io import pretrained

MAX_SHIFT = 15  # windows to either side, as in the public code of the evaluation SyncNet
_FPS = 25  # of the evaluation SyncNet
_, _WINDOW_FRAMES, _SIDE, _ = LIPS_SHAPE
_WINDOWS_AT_A_TIME = 16  # 48 MB of lips at 224 pixels


class SyncScore(NamedTuple):
    """How well lips and sound of one clip fit."""

    offset: int  # windows (video frames, at stride 1) by which the sound comes early; 0 = in sync
    distance: float  # mean distance of lips and sound at that offset; smaller is better
    confidence: float  # how far the best distance lies below the median one; larger is better


def offset_and_confidence(vision: Tensor, audio: Tensor, max_shift: int = MAX_SHIFT) -> SyncScore:
    """Return the offset at which lips and sound are closest, with its distance and confidence.

    Sound that comes k windows early, `audio[t] = vision[t + k]`, has the offset k.

    Args: vision, audio: (T, D) embeddings of windows with the same starts, one video frame apart.
    Raises: ValueError, if the two do not have the same shape (T, D) with T at least 1.
    Source: SyncNet ("Out of time", Chung and Zisserman 2016), section 4, as its public code computes it: beyond its
        ends the sound is zeros, and those windows count in the mean.
    """
    if vision.shape != audio.shape or vision.ndim != 2 or len(vision) == 0:
        shapes = f"{tuple(vision.shape)} and {tuple(audio.shape)}"
        raise ValueError(f"lips and sound must be embeddings of the same windows (T, D), got {shapes}")
    padded = F.pad(audio.float(), (0, 0, max_shift, max_shift))
    candidates = padded.unfold(0, 2 * max_shift + 1, 1).transpose(1, 2)  # (T, shifts, D)
    distances = F.pairwise_distance(vision.float()[:, None], candidates).mean(dim=0)
    closest = int(distances.argmin())
    return SyncScore(max_shift - closest, float(distances[closest]), float(distances.median() - distances[closest]))


class SyncScorer(Protocol):
    """Scores one clip of aligned faces and its sound."""

    fps: int  # of the faces it reads
    sample_rate_hz: int  # of the sound it reads

    @property
    def version(self) -> str: ...  # another one where its scores may differ; no spaces

    def __call__(self, faces: np.ndarray, waveform: np.ndarray) -> SyncScore:
        """Score aligned faces (T, R, R, 3), uint8 RGB, and sound (N,), float32 mono, that begins with the first one.

        Raises: ClipTooShort, if faces or sound end before one window does; ClipMismatch, for faces of another size.
        """
        ...


class EvaluationSyncScorer(LazyNetwork[JudgeSyncNet]):
    """The released evaluation SyncNet, from `syncnet_v2.model`; it reads 25 frames per second and sound at 16 kHz.

    Its public code crops faces, by a detector of its own, with some of the head around; this one resizes the aligned
    face to 224x224, so confidences of the same video differ a little. What comes after the crop is the same.

    Source: "Out of time: automated lip sync in the wild" (Chung and Zisserman 2016), sections 2 and 4; windows of five
        frames, one frame apart, five fewer than there are frames.
    """

    fps = _FPS
    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(self, *, path: str, device: str) -> None:
        """Args: path: the file its authors released; read at the first call."""
        super().__init__(device=device)
        self.path = path

    @property
    def version(self) -> str:
        return version_by_content("evaluation_syncnet", self.path)

    def load(self) -> JudgeSyncNet:
        return judge_syncnet(path=self.path)

    @judging()
    def __call__(self, faces: np.ndarray, waveform: np.ndarray) -> SyncScore:
        """As `SyncScorer` says, for faces of any size."""
        num_windows = min(len(faces), len(waveform) // (SAMPLE_RATE_HZ // _FPS)) - _WINDOW_FRAMES
        if num_windows < 1:
            got = f"{len(faces)} frames and {len(waveform) / SAMPLE_RATE_HZ:.2f} s"
            raise ClipTooShort(f"the evaluation SyncNet needs {_WINDOW_FRAMES + 1} frames with sound, got {got}")
        # Bilinear and BGR, as the public code resizes its crops.
        resized = [cv2.resize(face, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)[..., ::-1] for face in faces]
        faces_TCHW = rearrange(torch.from_numpy(np.stack(resized)), "t h w c -> t c h w")
        sound = mfcc(torch.from_numpy(waveform))
        vision, audio = [], []
        for first in range(0, num_windows, _WINDOWS_AT_A_TIME):
            last = min(first + _WINDOWS_AT_A_TIME, num_windows)
            windows_BCHWT = faces_TCHW[first : last + _WINDOW_FRAMES - 1].unfold(0, _WINDOW_FRAMES, 1)
            lips_BCTHW = rearrange(windows_BCHWT, "b c h w t -> b c t h w").to(self.device).float()
            mfcc_B1ML = torch.stack([mfcc_window(sound, start) for start in range(first, last)]).to(self.device)
            vision.append(self.network.forward_lip(lips_BCTHW))
            audio.append(self.network.forward_aud(mfcc_B1ML))
        return offset_and_confidence(torch.cat(vision), torch.cat(audio))


class OwnSyncScorer(LazyNetwork[StableSyncNet]):
    """A StableSyncNet that was trained with this library.

    Its embeddings are of unit length, the evaluation SyncNet's are not: its confidence lies between 0 and 2, and
    thresholds published for the other mean nothing here.
    """

    def __init__(self, *, path: str, clip: ClipSpec, device: str) -> None:
        """Args: path: folder that a training of SyncNet wrote; clip: what it was trained with."""
        super().__init__(device=device)
        self.path = path
        self.clip = clip
        self.fps = clip.fps
        self.sample_rate_hz = clip.sample_rate_hz

    @property
    def version(self) -> str:
        return version_by_content("own_syncnet", self.path)

    def load(self) -> StableSyncNet:
        get_with = "python -m lipsync_lightning.train +experiment=syncnet"
        network: Any = pretrained(network=StableSyncNet, path=self.path, get_with=get_with)
        channels, wanted = network.config["visual_encoder"]["in_channels"], 3 * self.clip.num_frames
        if channels != wanted:
            told = f"the SyncNet at {self.path} reads {channels} channels of lips, {wanted} are wanted"
            raise ClipMismatch(f"{told}; give the clip it was trained with, and no SyncNet of latents")
        return network

    @judging()
    def __call__(self, faces: np.ndarray, waveform: np.ndarray) -> SyncScore:
        """As `SyncScorer` says, for faces and sound of its clip."""
        columns = {name: getattr(self.clip, name) for name in ("sample_rate_hz", "mel_hz", "num_mels")}
        mel = log_mel(torch.from_numpy(waveform), **columns)
        faces_TCHW = rearrange(torch.from_numpy(faces), "t h w c -> t c h w")
        return offset_and_confidence(*syncnet_embeddings(self.network, faces_TCHW, mel, self.clip))


@torch.no_grad()
def syncnet_embeddings(syncnet: StableSyncNet, faces: Tensor, mel: Tensor, clip: ClipSpec) -> tuple[Tensor, Tensor]:
    """Return the unit embeddings (W, D) of lips and of sound, one window a video frame, on the network's device.

    W counts the starts at which both a whole clip of frames and a whole clip of sound are there.

    Args:
        faces: (T, 3, H, W) uint8, aligned faces at `clip.resolution`.
        mel: (M, L), log-mel of the whole sound.
    Raises: ClipTooShort, if frames or sound end before one clip does; ClipMismatch, for faces of another resolution.
    """
    side = clip.resolution
    if tuple(faces.shape[2:]) != (side, side):
        raise ClipMismatch(f"SyncNet reads faces of {side}x{side} pixels, got {tuple(faces.shape[2:])}; align anew")
    starts_of_frames = range(len(faces) - clip.num_frames + 1)
    num_windows = sum(clip.mel_start(start) + clip.mel_columns <= mel.shape[1] for start in starts_of_frames)
    if num_windows < 1:
        wanted, got = f"{clip.num_frames} frames and {clip.mel_columns} mel columns", f"{len(faces)} and {mel.shape[1]}"
        raise ClipTooShort(f"SyncNet needs {wanted}, got {got}; use a longer video")
    embeddings = []
    for starts in torch.arange(num_windows).split(32):
        frames_BTCHW = torch.stack([faces[start : start + clip.num_frames] for start in starts.tolist()])
        lips_BCHW = rearrange(lower_half(frames_BTCHW), "b t c h w -> b (t c) h w")
        mel_B1ML = torch.stack([mel_window(mel, start, clip) for start in starts.tolist()])
        embeddings.append(syncnet(to_float(lips_BCHW.to(syncnet.device)), mel_B1ML.to(syncnet.device)))
    vision, audio = zip(*embeddings, strict=True)
    return torch.cat(vision), torch.cat(audio)


@torch.no_grad()
def pair_accuracy(syncnet: StableSyncNet, batches: Iterable[WindowBatch]) -> dict[str, float]:
    """Return `syncnet_accuracy` and `syncnet_auc`: how well a SyncNet tells matching from foreign sound in windows.

    Pairs are as `matching_and_foreign` makes them when all batches stand in one row, so that the figure does not
    depend on the batch size. A pair counts as matching from a probability of one half, by the network's calibration.
    Our own are calibrated by pairs of the same held-out clips: one threshold of them all, which flatters little.
    """
    embeddings = []
    for batch in batches:
        lips_BCHW = rearrange(lower_half(batch["frames"]), "b t c h w -> b (t c) h w")
        embeddings.append(syncnet(lips_BCHW.to(syncnet.device), batch["mel"].to(syncnet.device)))
    similarity = torch.stack(matching_and_foreign(*map(torch.cat, zip(*embeddings, strict=True))))
    is_matching = torch.zeros_like(similarity, dtype=torch.int64)
    is_matching[0] = 1
    is_right = (syncnet.probability(similarity) >= 0.5) == is_matching.bool()
    auc = binary_auroc(similarity.flatten(), is_matching.flatten())
    return {"syncnet_accuracy": float(is_right.float().mean()), "syncnet_auc": float(auc)}
