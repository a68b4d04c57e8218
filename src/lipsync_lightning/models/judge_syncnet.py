"""The evaluation SyncNet, the usual judge of lip sync, distinct from the StableSyncNet that trains the U-Net.

Parameter names are those of the released `syncnet_v2.model`, so that it loads without any mapping.
"""

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from lipsync_lightning.errors import ClipMismatch

# Of one window, as the paper's section 2 and the released weights have it.
LIPS_SHAPE = (3, 5, 224, 224)  # channels, frames, height, width
MFCC_SHAPE = (1, 13, 20)  # channels, coefficients, columns


class JudgeSyncNet(ModelMixin, ConfigMixin):
    """Returns embeddings of 0.2 s of lips and of sound, close together (Euclidean) where both fit. In eval mode.

    Source: "Out of time: automated lip sync in the wild" (Chung and Zisserman 2016), section 2, with the layers of the
        released second version.
    """

    @register_to_config
    def __init__(self):
        super().__init__()
        self.netcnnaud = nn.Sequential(  # (B, 1, 13, 20) -> (B, 512, 1, 1)
            *_convolution(1, 64, (3, 3), padding=1),
            nn.Identity(),  # the released network pools one by one here; the later layers' numbers count it
            *_convolution(64, 192, (3, 3), padding=1),
            nn.MaxPool2d((3, 3), stride=(1, 2)),
            *_convolution(192, 384, (3, 3), padding=1),
            *_convolution(384, 256, (3, 3), padding=1),
            *_convolution(256, 256, (3, 3), padding=1),
            nn.MaxPool2d((3, 3), stride=(2, 2)),
            *_convolution(256, 512, (5, 4)),
        )
        self.netfcaud, self.netfclip = (  # (B, 512) -> (B, 1024)
            nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024)) for _ in range(2)
        )
        self.netcnnlip = nn.Sequential(  # (B, 3, 5, 224, 224) -> (B, 512, 1, 1, 1): the first sees all five frames
            *_convolution(3, 96, (5, 7, 7), stride=2),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2)),
            *_convolution(96, 256, (1, 5, 5), stride=2, padding=1),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
            *_convolution(256, 256, (1, 3, 3), padding=1),
            *_convolution(256, 256, (1, 3, 3), padding=1),
            *_convolution(256, 256, (1, 3, 3), padding=1),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2)),
            *_convolution(256, 512, (1, 6, 6)),
        )
        self.eval()

    def forward(self, lips: Tensor, mfcc: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings (B, 1024) of lips and (B, 1024) of sound; arguments and errors of the methods below."""
        return self.forward_lip(lips), self.forward_aud(mfcc)

    def forward_lip(self, lips: Tensor) -> Tensor:
        """Return the embeddings (B, 1024) of lips, not of unit length.

        Args:
            lips: (B, 3, 5, 224, 224), five consecutive frames at 25 per second, channels in the order BGR, in [0, 255].
        Raises: ClipMismatch, if the lips have another shape.
        """
        return self.netfclip(self.forward_lipfeat(lips))

    def forward_aud(self, mfcc: Tensor) -> Tensor:
        """Return the embeddings (B, 1024) of sound, not of unit length.

        Args:
            mfcc: (B, 1, 13, 20), the 20 columns of `media.mfcc.mfcc` heard during the five frames.
        Raises: ClipMismatch, if the sound has another shape.
        """
        _require_shape("sound", mfcc, MFCC_SHAPE, "cut it with `mfcc_window`")
        return self.netfcaud(rearrange(self.netcnnaud(mfcc), "b d 1 1 -> b d"))

    def forward_lipfeat(self, lips: Tensor) -> Tensor:
        """Return the features (B, 512) that the lips' embedding is made from; arguments and errors of `forward_lip`."""
        _require_shape("lips", lips, LIPS_SHAPE, "cut windows and resize them first")
        return rearrange(self.netcnnlip(lips), "b d 1 1 1 -> b d")


def _convolution(
    channels: int,
    out_channels: int,
    kernel: tuple[int, int] | tuple[int, int, int],
    *,
    stride: int = 1,
    padding: int = 0,
) -> list[nn.Module]:
    """A kernel of three sizes is one of clips: stride and padding in height and width; time has neither."""
    if len(kernel) == 2:
        return [nn.Conv2d(channels, out_channels, kernel, stride, padding), nn.BatchNorm2d(out_channels), nn.ReLU()]
    layer = nn.Conv3d(channels, out_channels, kernel, (1, stride, stride), (0, padding, padding))
    return [layer, nn.BatchNorm3d(out_channels), nn.ReLU()]


def _require_shape(what: str, given: Tensor, expected: tuple[int, ...], way_out: str) -> None:
    if tuple(given.shape[1:]) != expected:
        raise ClipMismatch(f"the evaluation SyncNet reads {what} (B, *{expected}), got {tuple(given.shape)}; {way_out}")
