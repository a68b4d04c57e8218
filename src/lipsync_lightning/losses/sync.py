"""SyncNet supervision of generated frames."""

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from lipsync_lightning.clip import lower_half
from lipsync_lightning.models.frozen import frozen
from lipsync_lightning.models.syncnet import SyncNet


class SyncLoss(nn.Module):
    """How little a frozen SyncNet believes that generated lips and sound belong together."""

    def __init__(self, *, syncnet: SyncNet, resolution: int, lowest_probability: float = 1e-3) -> None:
        """Args:
        resolution: height and width of the faces `syncnet` was trained on; larger ones are shrunk to it.
        lowest_probability: floor under the logarithm, where its gradient would be infinite.
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
        vision_BD, audio_BD = self.syncnet(lower_half(faces_BCHW), mel)
        similarity_B = (vision_BD.float() * audio_BD.float()).sum(dim=1)
        probability_B = self.syncnet.probability(similarity_B)
        return -probability_B.clamp(self.lowest_probability, 1.0).log().mean()
