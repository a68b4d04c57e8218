"""SyncNet supervision: how little a frozen SyncNet finds generated lips and sound alike."""

import numpy as np
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from lipsync_lightning.clip import lower_half
from lipsync_lightning.losses.similarity import Calibration
from lipsync_lightning.losses.terms import Loss, StepOutput
from lipsync_lightning.models.syncnet import SyncNet
from lipsync_lightning.models.weights_io import frozen


class LatentSyncLoss(Loss):
    """Supervision by a SyncNet that sees the latents of whole faces, so that nothing is decoded.

    Source: LatentSync (arXiv 2412.09262), section 3.3.
    """

    def __init__(self, *, syncnet: SyncNet, lowest_probability: float = 1e-3) -> None:
        """Args: lowest_probability: floor of the similarity, below which gradients explode."""
        super().__init__()
        self.syncnet = frozen(syncnet)
        self.lowest_probability = lowest_probability

    def reads(self, step: StepOutput) -> tuple[Tensor, ...]:
        return step.clean_pred, step.mel

    def clips(self, step: StepOutput) -> np.ndarray:
        return step.has_audio  # what was made without sound need not fit it

    def similarity(self, frames: Tensor, mel: Tensor) -> Tensor:
        """Return the cosine similarity (B,) of lips and sound.

        Args:
            frames: (B, T, C, h, w), what SyncNet sees: latents of whole faces.
            mel: (B, 1, M, L), heard during the clip.
        """
        vision_BD, audio_BD = self.syncnet(rearrange(frames, "b t c h w -> b (t c) h w"), mel)
        return (vision_BD.float() * audio_BD.float()).sum(dim=1)

    def forward(self, frames: Tensor, mel: Tensor) -> Tensor:
        """Return −log of the similarity of lips and sound, averaged over clips; 0 if perfect. Args: see `similarity`.

        Below the threshold of a calibrated network, where the logarithm would get steep, it goes on straight: however
        wrong the lips are, they are told the way, and no louder than by a similarity that decides.

        Source: Wav2Lip (arXiv 2008.10010), equation 2; the published loss is the cross-entropy with target 1.
        """
        similarity_B = self.similarity(frames, mel)
        calibration = self.syncnet.config["calibration"]
        if calibration is None:
            return -similarity_B.clamp(self.lowest_probability, 1.0).log().mean()
        threshold = min(max(Calibration(**calibration).threshold, self.lowest_probability), 1.0)
        lacking_B = (threshold - similarity_B).clamp(min=0.0)
        return (lacking_B / threshold - (similarity_B + lacking_B).log()).mean()


class SyncLoss(LatentSyncLoss):
    """Supervision by a SyncNet that sees the lower half of decoded frames."""

    def __init__(self, *, syncnet: SyncNet, resolution: int, lowest_probability: float = 1e-3) -> None:
        """Args: resolution: height and width of the faces `syncnet` was trained on; others are resized to it."""
        super().__init__(syncnet=syncnet, lowest_probability=lowest_probability)
        self.resolution = resolution

    def reads(self, step: StepOutput) -> tuple[Tensor, ...]:
        return step.frames_pred, step.mel

    def similarity(self, frames: Tensor, mel: Tensor) -> Tensor:
        """Return what `LatentSyncLoss` returns. Args: frames: (B, T, 3, H, W) in [-1, 1], whole faces."""
        if frames.shape[-1] != self.resolution:
            resized_NCHW = functional.interpolate(frames.flatten(0, 1), size=self.resolution, mode="bicubic")
            frames = resized_NCHW.unflatten(0, frames.shape[:2])
        return super().similarity(lower_half(frames), mel)
