"""SyncNet supervision of generated frames."""

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from lipsync_lightning.clip import lower_half
from lipsync_lightning.models.frozen import frozen
from lipsync_lightning.models.syncnet import SyncNet


class LatentSyncLoss(nn.Module):
    """How little a frozen SyncNet that reads latents believes that generated lips and sound belong together."""

    def __init__(self, *, syncnet: SyncNet, lowest_probability: float = 1e-3) -> None:
        """Args: lowest_probability: floor under the logarithm, where its gradient would be infinite."""
        super().__init__()
        self.syncnet = frozen(syncnet)
        self.lowest_probability = lowest_probability

    def forward(self, latents: Tensor, mel: Tensor) -> Tensor:
        """Return −log of the probability that lips and sound belong together, averaged over clips; 0 where they match perfectly.

        For the published SyncNet, which is not calibrated, that probability is the cosine similarity.

        Args:
            latents: (B, T, C, h, w) of whole generated faces.
            mel: (B, 1, M, L) heard during the clip.
        Source: Wav2Lip (arXiv 2008.10010), equation 2; the published loss is the cross-entropy with target 1. In latent space:
            LatentSync (arXiv 2412.09262), section 3.3.
        """
        vision_BD, audio_BD = self.syncnet(rearrange(self.looked_at(latents), "b t c h w -> b (t c) h w"), mel)
        similarity_B = (vision_BD.float() * audio_BD.float()).sum(dim=1)
        return -self.syncnet.probability(similarity_B).clamp(self.lowest_probability, 1.0).log().mean()

    def looked_at(self, latents: Tensor) -> Tensor:
        """Return what the network sees of the clips."""
        return latents


class SyncLoss(LatentSyncLoss):
    """The same of a SyncNet that reads the lower half of decoded frames (B, T, 3, H, W) in [-1, 1]."""

    def __init__(self, *, syncnet: SyncNet, resolution: int, lowest_probability: float = 1e-3) -> None:
        """Args: resolution: height and width of the faces `syncnet` was trained on; larger ones are shrunk to it."""
        super().__init__(syncnet=syncnet, lowest_probability=lowest_probability)
        self.resolution = resolution

    def looked_at(self, latents: Tensor) -> Tensor:
        faces_NCHW = rearrange(latents, "b t c h w -> (b t) c h w")
        if faces_NCHW.shape[-1] != self.resolution:
            faces_NCHW = functional.interpolate(faces_NCHW, size=(self.resolution, self.resolution), mode="bicubic")
        return lower_half(rearrange(faces_NCHW, "(b t) c h w -> b t c h w", b=len(latents)))
