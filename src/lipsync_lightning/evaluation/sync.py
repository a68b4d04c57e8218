"""Judges of lip sync that read plain aligned faces and sound: the evaluation SyncNet, or one trained with this library."""

from typing import Protocol

import cv2
import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from lipsync_lightning.clip import ClipSpec, lower_half
from lipsync_lightning.errors import ClipMismatch, ClipTooShort
from lipsync_lightning.evaluation.offset import SyncScore, offset_and_confidence
from lipsync_lightning.media.mel import log_mel, mel_window
from lipsync_lightning.media.mfcc import SAMPLE_RATE_HZ, mfcc, mfcc_window
from lipsync_lightning.models.judge_syncnet import LIPS_SHAPE, JudgeSyncNet
from lipsync_lightning.models.latentsync import judge_syncnet_from_reference
from lipsync_lightning.models.lazy_network import LazyNetwork, judging, version_by_content
from lipsync_lightning.models.released import FETCH_ALL, released_file
from lipsync_lightning.models.syncnet import StableSyncNet
from lipsync_lightning.models.weights_io import frozen, pretrained, weights_of

_FPS = 25
_, _WINDOW_FRAMES, _SIDE, _ = LIPS_SHAPE
_SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // _FPS
_WINDOWS_AT_A_TIME = 16  # 48 MB of lips at 224 pixels


class SyncScorer(Protocol):
    """Says how well the lips of one clip fit its sound, and by how much the sound comes early."""

    fps: int  # of the faces it reads
    sample_rate_hz: int  # of the sound it reads

    @property
    def version(self) -> str:
        """Another one where its judgement may differ; no spaces."""
        ...

    def __call__(self, faces: np.ndarray, waveform: np.ndarray) -> SyncScore:
        """Return offset in frames, distance and confidence.

        Args:
            faces: (T, R, R, 3), uint8 RGB, aligned.
            waveform: (N,), float32 mono sound that begins with the first face.
        Raises: ClipTooShort, if faces or sound end before one window does; ClipMismatch, if they are not what it reads.
        """
        ...


class EvaluationSyncScorer(LazyNetwork[JudgeSyncNet]):
    """The released evaluation SyncNet, from `syncnet_v2.model`.

    One difference to its public code: that one looks for the face by a detector of its own and crops it, with some of the head around;
    this one resizes the aligned face it is given, whole, to 224x224. Confidences of the same video therefore differ a little. What comes
    after the crop is the same.

    Source: "Out of time: automated lip sync in the wild" (Chung and Zisserman 2016), sections 2 and 4; windows of five frames, one frame
        apart, five fewer than there are frames.
    """

    fps = _FPS
    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(self, *, path: str, device: str) -> None:
        """Args: path: the file its authors released; read at the first judgement."""
        super().__init__(device=device)
        self.path = path

    @property
    def version(self) -> str:
        """By content, since other weights may come to lie under the same name."""
        return version_by_content("evaluation_syncnet", self.path)

    def load(self) -> JudgeSyncNet:
        return frozen(judge_syncnet_from_reference(weights_of(released_file(self.path, get_with=FETCH_ALL), self.path)))

    @judging()
    def __call__(self, faces: np.ndarray, waveform: np.ndarray) -> SyncScore:
        """As `SyncScorer` says, for 25 frames per second and sound at 16 kHz; faces of any size."""
        _require_faces(faces)
        num_windows = min(len(faces), len(waveform) // _SAMPLES_PER_FRAME) - _WINDOW_FRAMES
        if num_windows < 1:
            raise ClipTooShort(
                f"the evaluation SyncNet needs {_WINDOW_FRAMES + 1} frames and their sound, {(_WINDOW_FRAMES + 1) / _FPS:g} s, "
                f"got {len(faces)} frames and {len(waveform) / SAMPLE_RATE_HZ:.2f} s; leave the clip out"
            )
        faces_TCHW = _faces_for_judge(faces[: num_windows + _WINDOW_FRAMES - 1])
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

    Its embeddings are of unit length, the evaluation SyncNet's are not: its confidence lies between 0 and 2, and thresholds published for
    the other mean nothing here.
    """

    def __init__(self, *, path: str, clip: ClipSpec, device: str) -> None:
        """Args:
        path: folder that a training of SyncNet wrote.
        clip: what it was trained with.
        """
        super().__init__(device=device)
        self.path = path
        self.clip = clip
        self.fps = clip.fps
        self.sample_rate_hz = clip.sample_rate_hz

    @property
    def version(self) -> str:
        """By content, since every training writes the same file names."""
        return version_by_content("own_syncnet", self.path)

    def load(self) -> StableSyncNet:
        network = pretrained(
            network=StableSyncNet, path=self.path, get_with="python -m lipsync_lightning.train +experiment=syncnet"
        )
        assert isinstance(network, StableSyncNet)
        channels = network.config["visual_encoder"]["in_channels"]
        if channels != 3 * self.clip.num_frames:
            raise ClipMismatch(
                f"the SyncNet at {self.path} reads {channels} channels of lips, {self.clip.num_frames} RGB frames have "
                f"{3 * self.clip.num_frames}; give the clip it was trained with, and no SyncNet of latents"
            )
        return network

    @judging()
    def __call__(self, faces: np.ndarray, waveform: np.ndarray) -> SyncScore:
        """As `SyncScorer` says, for faces and sound of its clip."""
        _require_faces(faces)
        clip = self.clip
        mel = log_mel(
            torch.from_numpy(waveform), sample_rate_hz=clip.sample_rate_hz, mel_hz=clip.mel_hz, num_mels=clip.num_mels
        )
        faces_TCHW = rearrange(torch.from_numpy(faces), "t h w c -> t c h w")
        return offset_and_confidence(*syncnet_embeddings(self.network, faces_TCHW, mel, clip))


@torch.no_grad()
def syncnet_embeddings(
    syncnet: StableSyncNet, faces: Tensor, mel: Tensor, clip: ClipSpec, batch_size: int = 32
) -> tuple[Tensor, Tensor]:
    """Return the unit embeddings (W, D) of lips and of sound, one window a video frame, on the network's device.

    W counts the starts at which both a whole clip of frames and a whole clip of sound are there.

    Args:
        faces: (T, 3, H, W), aligned faces at `clip.resolution`, uint8 or float in [-1, 1].
        mel: (M, L), log-mel of the whole sound.
        batch_size: windows at a time.
    Raises:
        ClipTooShort: frames or sound end before one clip does.
        ClipMismatch: the faces are not of `clip.resolution`.
    """
    num_windows = _num_windows(faces, mel, clip)
    was_training = syncnet.training
    syncnet.eval()
    vision, audio = [], []
    for first in range(0, num_windows, batch_size):
        starts = range(first, min(first + batch_size, num_windows))
        frames_BTCHW = torch.stack([faces[start : start + clip.num_frames] for start in starts])
        lips_BCHW = rearrange(lower_half(frames_BTCHW), "b t c h w -> b (t c) h w").to(syncnet.device)
        mel_B1ML = torch.stack([mel_window(mel, start, clip) for start in starts])
        vision_BD, audio_BD = syncnet(_signed(lips_BCHW), mel_B1ML.to(syncnet.device))
        vision.append(vision_BD)
        audio.append(audio_BD)
    syncnet.train(was_training)
    return torch.cat(vision), torch.cat(audio)


def _signed(frames: Tensor) -> Tensor:
    return frames.float() / 127.5 - 1 if frames.dtype == torch.uint8 else frames


def _faces_for_judge(faces: np.ndarray) -> Tensor:
    """(T, 3, 224, 224), uint8 BGR: bilinear, as the public code resizes its crops."""
    resized = [cv2.resize(face, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)[..., ::-1] for face in faces]
    return rearrange(torch.from_numpy(np.stack(resized)), "t h w c -> t c h w")


def _require_faces(faces: np.ndarray) -> None:
    if faces.ndim != 4 or faces.shape[3] != 3 or faces.dtype != np.uint8:
        raise ClipMismatch(
            f"a judge of sync reads aligned faces (T, R, R, 3) in uint8, got {faces.shape} in {faces.dtype}; align first"
        )


def _num_windows(faces: Tensor, mel: Tensor, clip: ClipSpec) -> int:
    if tuple(faces.shape[2:]) != (clip.resolution, clip.resolution):
        raise ClipMismatch(
            f"SyncNet was asked about faces of {tuple(faces.shape[2:])} pixels, its clip has {clip.resolution}x{clip.resolution}; "
            "align the video with this clip, or use the SyncNet of the other"
        )
    by_frames = len(faces) - clip.num_frames + 1
    num_windows = sum(clip.mel_start(start) + clip.mel_columns <= mel.shape[1] for start in range(by_frames))
    if num_windows < 1:
        raise ClipTooShort(
            f"SyncNet needs {clip.num_frames} frames and {clip.mel_columns} mel columns, got {len(faces)} and {mel.shape[1]}; "
            "use a longer video"
        )
    return num_windows
