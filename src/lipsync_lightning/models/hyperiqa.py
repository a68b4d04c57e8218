"""HyperIQA, a judge of how good single images look that needs no reference image to compare them with.

Parameter names are those of the released `koniq_pretrained.pkl`, so that it loads without any mapping.
"""

from itertools import pairwise

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import einsum, rearrange, reduce
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.transforms.functional import normalize

from lipsync_lightning.errors import ClipMismatch

IMAGE_SHAPE = (3, 224, 224)
IMAGENET_MEAN = [0.485, 0.456, 0.406]  # RGB, of torchvision's ImageNet weights, with which HyperIQA's training began
IMAGENET_STD = [0.229, 0.224, 0.225]

_RESNET50_BLOCKS = [3, 4, 6, 3]  # Deep Residual Learning (arXiv 1512.03385), table 1
_POOL = 7  # pixels; the last stage's 7x7 grid becomes one value
_CONTENT_CHANNELS = 112  # of the released network, as are the widths
_TARGET_WIDTHS = (224, 112, 56, 28, 14, 1)
_DISTORTION_WIDTH = 16  # features of each of the three early stages; the last one gives the rest of 224


class HyperIQA(ModelMixin, ConfigMixin):
    """Returns the quality of each image: larger is better, about 0 to 100 with the released weights.

    What an image shows chooses the weights of a small network, which then judges the image's distortions.
    Built in eval mode: scores with the statistics of a batch instead of the trained ones mean nothing.

    Source: "Blindly Assess Image Quality in the Wild Guided by a Self-Adaptive Hyper Network" (Su et al., CVPR 2020).
    """

    @register_to_config
    def __init__(self):
        super().__init__()
        self.res = DistortionBackbone()
        widths = pairwise((2048, 1024, 512, _CONTENT_CHANNELS))
        self.conv1 = nn.Sequential(*(part for pair in widths for part in (nn.Conv2d(*pair, 1), nn.ReLU())))
        for layer, (width, out_width) in enumerate(pairwise(_TARGET_WIDTHS[:5]), start=1):
            weight_channels = width * out_width // _POOL**2
            self.add_module(f"fc{layer}w_conv", nn.Conv2d(_CONTENT_CHANNELS, weight_channels, 3, padding=1))
            self.add_module(f"fc{layer}b_fc", nn.Linear(_CONTENT_CHANNELS, out_width))
        self.fc5w_fc = nn.Linear(_CONTENT_CHANNELS, _TARGET_WIDTHS[4])
        self.fc5b_fc = nn.Linear(_CONTENT_CHANNELS, _TARGET_WIDTHS[5])
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores (B,) of RGB images (B, 3, 224, 224) in [0, 1].

        Raises: ClipMismatch, if the images have another shape.
        """
        if tuple(images.shape[1:]) != IMAGE_SHAPE:
            got = f"got {tuple(images.shape)}; crop or resize them first"
            raise ClipMismatch(f"HyperIQA reads images (B, *{IMAGE_SHAPE}), {got}")
        hidden_BD, content_BCHW = self.res(normalize(images, IMAGENET_MEAN, IMAGENET_STD))
        *hidden_layers, (last_weight_BDD, last_bias_BD) = self.target_layers(content_BCHW)
        for weight_BDD, bias_BD in hidden_layers:
            hidden_BD = torch.sigmoid(einsum(weight_BDD, hidden_BD, "b o i, b i -> b o") + bias_BD)
        return rearrange(einsum(last_weight_BDD, hidden_BD, "b o i, b i -> b o") + last_bias_BD, "b 1 -> b")

    def target_layers(self, content: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return weight (B, out, in) and bias (B, out) of each of the five layers that judge the distortions.

        Args: content: (B, 2048, 7, 7), the last stage of the backbone.
        """
        content_BCHW = self.conv1(content)
        content_BC = reduce(content_BCHW, "b c h w -> b c", "mean")
        layers = []
        for layer, out_width in enumerate(_TARGET_WIDTHS[1:5], start=1):
            weight_BD = rearrange(self.get_submodule(f"fc{layer}w_conv")(content_BCHW), "b c h w -> b (c h w)")
            weight_BDD = rearrange(weight_BD, "b (o i) -> b o i", o=out_width)
            layers.append((weight_BDD, self.get_submodule(f"fc{layer}b_fc")(content_BC)))
        return [*layers, (rearrange(self.fc5w_fc(content_BC), "b i -> b 1 i"), self.fc5b_fc(content_BC))]


class DistortionBackbone(ResNet):
    """Returns features (B, 224) of local distortions, from all four stages, and the last stage (B, 2048, 7, 7) itself.

    It is ResNet-50 in all but its classifier, hence the names of its weights.
    """

    def __init__(self):
        super().__init__(Bottleneck, _RESNET50_BLOCKS)
        del self.fc
        for stage, (channels, kept, side) in enumerate([(256, 16, 8), (512, 32, 4), (1024, 64, 2)], start=1):
            pool = nn.Sequential(nn.Conv2d(channels, kept, 1, bias=False), nn.AvgPool2d(_POOL))
            self.add_module(f"lda{stage}_pool", pool)
            self.add_module(f"lda{stage}_fc", nn.Linear(kept * side**2, _DISTORTION_WIDTH))
        self.lda4_pool = nn.AvgPool2d(_POOL)
        self.lda4_fc = nn.Linear(2048, _TARGET_WIDTHS[0] - 3 * _DISTORTION_WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden_BCHW = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        distortions = []
        for stage in (1, 2, 3, 4):
            hidden_BCHW = self.get_submodule(f"layer{stage}")(hidden_BCHW)
            pooled_BCHW = self.get_submodule(f"lda{stage}_pool")(hidden_BCHW)
            distortions.append(self.get_submodule(f"lda{stage}_fc")(rearrange(pooled_BCHW, "b c h w -> b (c h w)")))
        return torch.cat(distortions, dim=1), hidden_BCHW
