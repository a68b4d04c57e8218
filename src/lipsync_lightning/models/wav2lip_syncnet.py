"""The classic expert of lip sync (Wav2Lip, arXiv 2008.10010, section 3.2), for comparison with StableSyncNet."""

from typing import Any

from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from lipsync_lightning.models.syncnet import SyncNet

Size = int | tuple[int, int]


class Wav2LipSyncNet(SyncNet):
    """Returns unit embeddings of lips and of sound; their scalar product is the similarity, in [0, 1].

    Two stacks of convolution, batch norm and ReLU; both end in a ReLU, hence no similarity below 0.

    Args:
        audio_encoder: of each layer of sound, the arguments of its `ConvBlock`; the first has `in_channels` 1.
        visual_encoder: the same of lips; the first has the clip's frames times three.
        calibration: as `calibrate` stores it.
    Batch norms need two clips or more, and count each GPU's clips alone unless `trainer.sync_batchnorm=true`.
    Source: names, widths and order of layers are those of LatentSync's (arXiv 2412.09262) Wav2Lip expert.
        Strides, paddings and skips leave no trace in weights. They are chosen as in Wav2Lip: a layer that widens also
        shrinks, those that keep their width are residual, a 3x3 without padding and a 1x1 finish, so that 128x256 lips
        and 80x52 mels end at 1x1. Do not expect weights trained elsewhere to work.
    """

    @register_to_config
    def __init__(
        self,
        *,
        audio_encoder: list[dict[str, Any]],
        visual_encoder: list[dict[str, Any]],
        calibration: dict[str, float] | None = None,
    ):
        super().__init__()
        self._modules["audio_encoder"] = nn.Sequential(*(ConvBlock(**layer) for layer in audio_encoder))
        self._modules["visual_encoder"] = nn.Sequential(*(ConvBlock(**layer) for layer in visual_encoder))


class ConvBlock(nn.Module):
    """Returns (B, out_channels, h, w) >= 0: convolution, batch norm, a skip around both where `residual`, ReLU.

    Args:
        kernel_size, stride, padding: of the convolution, one number or (height, width); by default the size stays.
        residual: only where size and channels stay.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Size = 1,
        residual: bool = False,
    ):
        super().__init__()
        convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding)
        self.conv_block = nn.Sequential(convolution, nn.BatchNorm2d(out_channels))
        self.residual = residual

    def forward(self, images_BCHW: Tensor) -> Tensor:
        hidden_BCHW = self.conv_block(images_BCHW)
        return F.relu(hidden_BCHW + images_BCHW if self.residual else hidden_BCHW)
