"""How well the lips of a whole video fit its sound, as a StableSyncNet of this library judges it."""

from torch import Tensor

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.evaluation.offset import MAX_SHIFT, SyncScore, offset_and_confidence
from lipsync_lightning.evaluation.sync import syncnet_embeddings
from lipsync_lightning.models.syncnet import StableSyncNet


def sync_score(
    syncnet: StableSyncNet,
    faces: Tensor,
    mel: Tensor,
    clip: ClipSpec,
    *,
    batch_size: int = 32,
    max_shift: int = MAX_SHIFT,
) -> SyncScore:
    """Return offset in video frames, distance and confidence of one video; arguments and errors of `syncnet_embeddings`.

    The scale differs from that of the evaluation SyncNet, whose embeddings are not of unit length.
    """
    vision, audio = syncnet_embeddings(syncnet, faces, mel, clip, batch_size)
    return offset_and_confidence(vision, audio, max_shift)
