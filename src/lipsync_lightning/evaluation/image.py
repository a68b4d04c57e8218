"""How close generated mouths are to the real ones, measured where the model paints and nowhere else."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from torchvision.ops import masks_to_boxes

DATA_RANGE = 2.0  # of frames in [-1, 1]
LPIPS_MIN_SIDE = 64  # pixels; VGG halves a picture four times
LPIPS_FRAMES_AT_ONCE = 16
LPIPS_EVERY = 5  # frames; neighbours look alike, and the network is what takes the time


@torch.no_grad()
def mouth_quality(generated: Tensor, real: Tensor, keep_mask: Tensor, lpips_network: nn.Module) -> dict[str, float]:
    """Return `psnr` (dB, infinite for identical clips), `ssim` (1 = identical) and `lpips` (0 = identical) of one clip.

    PSNR reads only pixels the model made, pooled over the frames; SSIM and LPIPS, which need a rectangle, read the
    smallest one around them. Pixels that the model was given would flatter all three.

    Args:
        generated, real: (T, 3, H, W) in [-1, 1].
        keep_mask: (H, W), 0 where the model made the picture.
        lpips_network: frozen; (generated, real), both (N, 3, H, W) in [-1, 1], -> N distances, as `lpips.LPIPS` is.
    """
    made = keep_mask == 0
    left, top, right, bottom = masks_to_boxes(made[None])[0].int().tolist()
    box = (..., slice(top, bottom + 1), slice(left, right + 1))
    ssim = structural_similarity_index_measure(generated[box], real[box], data_range=DATA_RANGE)
    assert isinstance(ssim, Tensor)
    pairs = torch.cat([generated[box][::LPIPS_EVERY], real[box][::LPIPS_EVERY]], dim=1)
    factor = max(1.0, LPIPS_MIN_SIDE / min(pairs.shape[2:]))
    size = [round(factor * side) for side in pairs.shape[2:]]
    enlarged = F.interpolate(pairs, size=size, mode="bilinear").split(LPIPS_FRAMES_AT_ONCE)
    return {
        "psnr": float(peak_signal_noise_ratio(generated[:, :, made], real[:, :, made], data_range=DATA_RANGE)),
        "ssim": float(ssim),
        "lpips": float(torch.cat([lpips_network(*some.split(3, dim=1)).flatten() for some in enlarged]).mean()),
    }
