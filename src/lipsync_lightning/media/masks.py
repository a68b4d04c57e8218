"""Which pixels of an aligned face a model keeps, and which it makes."""

import cv2
import numpy as np
import torch
from torch import Tensor

from lipsync_lightning.errors import BadConfig

# The released models' mask on the 256-pixel face (LatentSync, arXiv 2412.09262, public code), as geometry:
# a U whose arms pass the nose bridge on both sides and whose bowl follows cheeks and chin.
_DRAWN_AT = 256
_ARMS = ((95, 128, 9, 78), (95, 128, 178, 247))  # top, bottom, left, right
# (row, column) corners of the bowl's outline; between two corners it is a straight line, rounded half up.
_BOWL_LEFT = (
    *((128, 9), (157, 11), (170, 12), (179, 17), (189, 23), (196, 29), (207, 39)),
    *((215, 49), (223, 62), (233, 82), (236, 90), (238, 95), (241, 108), (242, 131)),
)
_BOWL_RIGHT = (
    *((128, 248), (169, 245), (178, 240), (196, 228), (206, 219), (214, 211), (215, 209)),
    *((220, 203), (228, 190), (231, 184), (234, 176), (239, 165), (242, 153)),
)
_ROWS = np.arange(_BOWL_LEFT[0][0], _BOWL_LEFT[-1][0] + 1)
_LEFT, _RIGHT = (
    np.floor(np.interp(_ROWS, *np.transpose(side)) + 0.5).astype(int) for side in (_BOWL_LEFT, _BOWL_RIGHT)
)

# What each leaves to the model: boxes of the 256-pixel face.
REGIONS = {
    "released": [*_ARMS, *zip(_ROWS, _ROWS + 1, _LEFT, _RIGHT, strict=True)],  # 40.7 %: nose bridge to chin, some cheek
    "mouth": [(150, 230, 76, 182)],  # 12.9 %: little more than open lips
    "face": [(28, 252, 4, 252)],  # 84.8 %: brows to chin and both sides
}


def keep_mask(resolution: int, region: str = "released") -> Tensor:
    """Return a mask for aligned faces: 1 where the face is kept, 0 where it is generated.

    Args: region: one of `REGIONS`; "released" is the mask of the released models.
    Returns: (H, W) = (resolution, resolution), float32 in [0, 1]; edges are soft at sizes other than 256.
    Raises: BadConfig, for a region that is none of them.
    Source: LatentSync (arXiv 2412.09262), the public code's mask; other sizes are that 8-bit image resized with a
        Lanczos kernel. "mouth" and "face" are this library's own, to repeat the paper's finding that what the mask
        shows tempts a model to read lips off it.
    """
    if region not in REGIONS:
        raise BadConfig(f"mask={region!r} is none of {sorted(REGIONS)}; choose one of them")
    mask = np.full((_DRAWN_AT, _DRAWN_AT), 255, np.uint8)
    for top, bottom, left, right in REGIONS[region]:
        mask[top:bottom, left:right] = 0
    if resolution != _DRAWN_AT:
        mask = cv2.resize(mask, (resolution, resolution), interpolation=cv2.INTER_LANCZOS4)
    return torch.from_numpy(mask).float() / 255


def latent_keep_mask(mask: Tensor, downscale: int) -> Tensor:
    """Return the mask as the U-Net's mask channel has it: 1 = keep, on the grid of the latents.

    Args:
        mask: (..., H, W), as from `keep_mask`; H and W are multiples of `downscale`.
        downscale: pixels per latent cell along one side, 8 for the Stable Diffusion autoencoder.
    Returns: (..., H / downscale, W / downscale), the nearest mask value, not an average.
    """
    return mask[..., ::downscale, ::downscale]
