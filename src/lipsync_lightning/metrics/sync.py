"""How well the lips of a whole video fit its sound, as a StableSyncNet of this library judges it."""

import torch
from einops import rearrange
from torch import Tensor

from lipsync_lightning.clip import ClipSpec, lower_half
from lipsync_lightning.errors import ClipMismatch, ClipTooShort
from lipsync_lightning.media.mel import mel_window
from lipsync_lightning.models.syncnet import StableSyncNet
from lipsync_lightning.scoring.av_sync import MAX_SHIFT, AvSync, offset_and_confidence


@torch.no_grad()
def syncnet_embeddings(syncnet: StableSyncNet, faces: Tensor, mel: Tensor, clip: ClipSpec, batch_size: int = 32) -> tuple[Tensor, Tensor]:
    """Return the unit embeddings (W, D) of lips and of sound, one window a video frame, on the network's device.

    W counts the starts at which both a whole clip of frames and a whole clip of sound are there.

    Args:
        faces: (T, 3, H, W) in [-1, 1], aligned faces at `clip.resolution`.
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
        lips_BCHW = rearrange(lower_half(frames_BTCHW), "b t c h w -> b (t c) h w")
        mel_B1ML = torch.stack([mel_window(mel, start, clip) for start in starts])
        vision_BD, audio_BD = syncnet(lips_BCHW.to(syncnet.device), mel_B1ML.to(syncnet.device))
        vision.append(vision_BD)
        audio.append(audio_BD)
    syncnet.train(was_training)
    return torch.cat(vision), torch.cat(audio)


def sync_score(
    syncnet: StableSyncNet, faces: Tensor, mel: Tensor, clip: ClipSpec, *, batch_size: int = 32, max_shift: int = MAX_SHIFT
) -> AvSync:
    """Return offset in video frames, distance and confidence of one video; arguments and errors of `syncnet_embeddings`.

    The scale differs from that of the evaluation SyncNet, whose embeddings are not of unit length.
    """
    vision, audio = syncnet_embeddings(syncnet, faces, mel, clip, batch_size)
    return offset_and_confidence(vision, audio, max_shift)


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
