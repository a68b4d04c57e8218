"""SyncNet supervision of generated frames."""

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from lipsync_lightning.clip import lower_half
from lipsync_lightning.models.syncnet import SyncNet
from lipsync_lightning.models.weights_io import frozen


class SyncLoss(nn.Module):
    """How little a frozen SyncNet believes that generated lips and sound belong together; it sees the lower half of decoded frames."""

    def __init__(self, *, syncnet: SyncNet, resolution: int, lowest_probability: float = 1e-3) -> None:
        """Args:
        resolution: height and width of the faces `syncnet` was trained on; larger ones are shrunk to it.
        lowest_probability: floor under the logarithm of a network that is not calibrated, where its gradient would be infinite.
        """
        super().__init__()
        self.syncnet = frozen(syncnet)
        self.resolution = resolution
        self.lowest_probability = lowest_probability

    def forward(self, frames: Tensor, mel: Tensor) -> Tensor:
        """Return −log of the probability that lips and sound belong together, averaged over clips; 0 where they match perfectly.

        For the published SyncNet, which is not calibrated, that probability is the cosine similarity.

        Args:
            frames: (B, T, 3, H, W) in [-1, 1], whole generated faces.
            mel: (B, 1, M, L) heard during the clip.
        Source: Wav2Lip (arXiv 2008.10010), equation 2; the published loss is the cross-entropy with target 1.
        """
        faces_BCHW = rearrange(frames, "b t c h w -> b (t c) h w")
        if faces_BCHW.shape[-1] != self.resolution:
            faces_BCHW = functional.interpolate(faces_BCHW, size=(self.resolution, self.resolution), mode="bicubic")
        return improbability(self.syncnet, lower_half(faces_BCHW), mel, self.lowest_probability)


class LatentSyncLoss(nn.Module):
    """The same of a SyncNet that sees the latents of whole faces, so that nothing is decoded."""

    def __init__(self, *, syncnet: SyncNet, lowest_probability: float = 1e-3) -> None:
        """Args: lowest_probability: see `SyncLoss`."""
        super().__init__()
        self.syncnet = frozen(syncnet)
        self.lowest_probability = lowest_probability

    def forward(self, latents: Tensor, mel: Tensor) -> Tensor:
        """Return what `SyncLoss` returns.

        Args:
            latents: (B, T, C, h, w) of whole generated faces.
            mel: (B, 1, M, L) heard during the clip.
        Source: LatentSync (arXiv 2412.09262), section 3.3.
        """
        return improbability(self.syncnet, rearrange(latents, "b t c h w -> b (t c) h w"), mel, self.lowest_probability)


def improbability(syncnet: SyncNet, lips: Tensor, mel: Tensor, lowest: float) -> Tensor:
    """Return −log of the probability that lips (B, T*C, h, w) and sound (B, 1, M, L) belong together, averaged over clips."""
    vision_BD, audio_BD = syncnet(lips, mel)
    similarity_B = (vision_BD.float() * audio_BD.float()).sum(dim=1)
    return -syncnet.log_probability(similarity_B, lowest).mean()
